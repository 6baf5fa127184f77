"""A round of a template as a batch: which images there are, and the table of their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from carl_cli.batch.bids import pair_dataset
from carl_cli.batch.folders import pair_atlas
from carl_cli.batch.naming import case_outputs
from carl_cli.batch.status import remove_partial, write_rows
from carl_cli.batch.table import Entry, entry_of, named_once
from carl_cli.errors import InputError
from carl_cli.io.atomic import full_suffix, make_folder
from carl_cli.io.csv import (
    ExistingFile,
    cell_told,
    cells_by_column,
    gathered,
    header_of,
    table_lines,
)
from carl_cli.io.images.files import Image, write_image
from carl_cli.workflows.request import listed
from carl_cli.workflows.template import Member, Registered
from carl_cli.workflows.template_files import FIXED, TemplateFiles

TABLE = "pairs.csv"


class _Cells(BaseModel):
    """A line of a table of images."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image: ExistingFile
    id: str = ""
    labels: ExistingFile | None = None
    mask: ExistingFile | None = None
    channel: Annotated[tuple[ExistingFile, ...], BeforeValidator(listed)] = ()  # numbered: several

    @model_validator(mode="before")
    @classmethod
    def _contrasts(cls, cells: Any) -> Any:
        return gathered(cells, "channel")


def members_of_table(path: Path) -> list[Member]:
    """CSV or TSV with the column image, and id, labels, mask and channel1, … if wanted.

    Raises InputError, naming the first line that can't be used.
    """
    lines = table_lines(path)
    header = header_of(path, lines)
    if "image" not in header:
        columns = ", ".join(_Cells.model_fields)
        raise InputError(f"{path}, line 1: no column 'image'", f"columns are {columns}")
    rows = [_cells(path, number, header, cells) for number, cells in lines[1:]]
    _check_labels(rows, path)
    _check_channels(rows, path)
    members = [Member(r.id or _stem(r.image), r.image, r.labels, r.mask, r.channel) for r in rows]
    return _checked(members, path)


def _check_channels(rows: Sequence[_Cells], path: Path) -> None:
    if not rows:
        return
    most, least = (pick(rows, key=lambda row: len(row.channel)) for pick in (max, min))
    if len(least.channel) < len(most.channel):
        raise InputError(
            f"{path}: channel{len(least.channel) + 1} is missing for {least.image}, but given for "
            f"{most.image}",
            "give all channels of all images",
        )


def _check_labels(rows: Sequence[_Cells], path: Path) -> None:
    unlabelled = [str(row.image) for row in rows if row.labels is None]
    if 0 < len(unlabelled) < len(rows):
        raise InputError(
            f"{path}: no labels for {unlabelled[0]}, but for others",
            "give labels of all images, or of none",
        )


def _cells(path: Path, number: int, header: Sequence[str], cells: Sequence[str]) -> _Cells:
    try:
        values = cells_by_column(header, cells)
        return _Cells.model_validate(values, context=path.absolute().parent)
    except InputError as error:
        told = error.message
    except ValidationError as error:
        told = cell_told(error.errors()[0])
    raise InputError(f"{path}, line {number}: {told}", "correct this line")


def members_of_files(paths: Sequence[Path]) -> list[Member]:
    """Named after their files. Raises InputError for one that is missing or comes twice."""
    return _checked([Member(_stem(path), path.absolute()) for path in paths], Path("the images"))


def _stem(path: Path) -> str:
    return path.name.removesuffix(full_suffix(path))


def members_of_folder(folder: Path, pattern: str) -> list[Member]:
    return [_member(entry) for entry in pair_atlas(folder, folder, pattern)]


def members_of_bids(dataset: Path, filters: Sequence[str]) -> list[Member]:
    return [_member(entry) for entry in pair_dataset(dataset, dataset, filters)]


def _member(entry: Entry) -> Member:
    if entry.row is None:
        raise InputError(entry.error, "give each image a file of its own")
    return Member(entry.name, entry.row.moving)


def _checked(members: Sequence[Member], where: Path) -> list[Member]:
    """Their names have to name folders and to differ, as those of a batch's cases."""
    entries = named_once(
        entry_of(number, {"id": m.name, "fixed": m.image, "moving": m.image}, Path.cwd())
        for number, m in enumerate(members, 1)
    )
    most = max((len(m.channels) for m in members), default=0)
    taken = {TABLE, *(path.name for path in TemplateFiles(Path(FIXED), most).contrasts)}
    for number, entry in enumerate(entries, 1):
        error = f"{entry.name} is a file of each round" if entry.name in taken else ""
        if entry.row is None or error:
            raise InputError(
                f"{where}, image {number}: {entry.error or error}",
                "name them apart in a table with the columns id and image",
            )
    return list(members)


def with_labels(members: Sequence[Member], given: Sequence[Path]) -> list[Member]:
    """A file for each image in the same order, or a folder of files by the images' names.

    Raises InputError where one is missing.
    """
    if len(given) == 1 and given[0].is_dir():
        given = [given[0] / member.image.name for member in members]
    if len(given) != len(members):
        raise InputError(
            f"{len(given)} files of labels for {len(members)} images",
            "give one for each image in the same order, or a folder with the same file names",
        )
    for path in given:
        if not path.is_file():
            raise InputError(f"{path}: no such file of labels", "give one for each image")
    return [replace(m, labels=path.absolute()) for m, path in zip(members, given, strict=True)]


def with_channel(members: Sequence[Member], folder: Path) -> list[Member]:
    """One more contrast: files of a folder by the images' names.

    Raises InputError where one is missing.
    """
    found = [folder / member.image.name for member in members]
    for member, path in zip(members, found, strict=True):
        if not path.is_file():
            raise InputError(
                f"{path}: no such file, the channel of {member.name}",
                "give a file for each image by the image's name, or name them in a table",
            )
    return [
        replace(m, channels=(*m.channels, path.absolute()))
        for m, path in zip(members, found, strict=True)
    ]


def begin_round(folder: Path, templates: Sequence[Image], members: Sequence[Member]) -> Path:
    """Write the template of each contrast that the round registers to and the table of its pairs;
    returns the table."""
    make_folder(folder)
    remove_partial(folder)
    files = TemplateFiles(folder / FIXED, len(templates) - 1).contrasts
    for path, template in zip(files, templates, strict=True):
        write_image(path, template)
    rows = [_row(member, files) for member in members]
    if any(m.mask for m in members):
        masks = (m.mask.absolute() if m.mask else "" for m in members)
        rows = [{**row, "moving_mask": str(mask)} for row, mask in zip(rows, masks, strict=True)]
    write_rows(folder / TABLE, rows)
    return folder / TABLE


def _row(member: Member, templates: Sequence[Path]) -> dict[str, Any]:
    """Of the round's table; templates of each contrast lie beside it."""
    row = {"id": member.name, "fixed": FIXED, "moving": str(member.image.absolute())}
    for k, (fixed, moving) in enumerate(zip(templates[1:], member.channels, strict=True), 1):
        row |= {f"fixed_channel{k}": fixed.name, f"moving_channel{k}": str(moving.absolute())}
    return row


def registered_in(folder: Path, members: Sequence[Member]) -> list[Registered]:
    """Where the round's batch has put the registration of each image."""
    fixed = folder / FIXED
    return [Registered(m, case_outputs(folder / m.name, fixed, m.image)) for m in members]

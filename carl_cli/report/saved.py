"""A run as it lies on the disk, read back for a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from carl_cli.errors import CarlError, InputError, UsageError
from carl_cli.io.atomic import sha256_of
from carl_cli.io.images.files import Image, read_contrasts, read_image
from carl_cli.io.label_names import LabelName
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import read_transform
from carl_cli.report.figure import save_scene_figure
from carl_cli.report.html import write_report
from carl_cli.report.index import Case, Thumbnail, thumbnail
from carl_cli.report.record import InputFile, OutputFile, RunRecord, read_record
from carl_cli.report.scene import build_scene
from carl_cli.transforms import Transform

ROLES = (
    "fixed",
    "moving",
    "forward",
    "warped",
    "jacobian",
    "match_spread",
    "fixed_seg",
    "moving_seg",
)
"""Keys of a record's inputs and outputs that a report shows."""
NEEDED = {"fixed": "the fixed image", "moving": "the moving image", "forward": "the transform"}


@dataclass(frozen=True, eq=False)
class SavedRun:
    fixed: Image
    moving: Image
    warped: Image
    transform: Transform
    jacobian: Image | None
    match_spread: Image | None
    labels: tuple[Image | None, Image | None]
    names: Mapping[int, LabelName]
    record: RunRecord | None

    def write_report(self, path: Path) -> None:
        write_report(
            path,
            self.fixed,
            self.moving,
            self.warped,
            self.transform,
            record=self.record,
            jacobian=self.jacobian,
            match_spread=self.match_spread,
            labels=self.labels,
            names=self.names,
        )

    def save_figure(self, path: Path) -> None:
        images = (self.fixed, self.moving, self.warped, self.transform)
        save_scene_figure(path, build_scene(*images, jacobian=self.jacobian, labels=self.labels))

    def thumbnail(self) -> Thumbnail:
        images = (self.fixed, self.moving, self.warped, self.transform)
        return thumbnail(build_scene(*images, longest=96))


def load_run(
    record_path: Path | None,
    given: Mapping[str, Path | None],
    names: Mapping[int, LabelName] = MappingProxyType({}),
) -> SavedRun:
    """Read the images of a run.

    record_path: what `--json` wrote, or None. given: role → path, stronger than the record. names:
    of the labels, stronger than the record's.
    The moving image is warped anew when there is no warped image on the fixed grid. Raises
    UsageError when fixed, moving or forward is known from neither, InputError when a file can't be
    read.
    """
    record = None if record_path is None else read_record(record_path)
    if record is not None and record.series is not None:
        page = record.outputs.get("report")
        raise UsageError(
            f"{record_path} is the record of a motion correction, not of a registration",
            f"its page is {page.path}" if page else "its page is what carl series --report writes",
        )
    paths = _paths(record, record_path, given)
    missing = [words for role, words in NEEDED.items() if role not in paths]
    if missing:
        raise UsageError(
            f"a report needs {', '.join(missing)}",
            "give the run record of `carl register --json`, or name the files",
        )
    images = {role: _read(role, path, record) for role, path in paths.items() if role != "forward"}
    transform = read_transform(paths["forward"])
    fixed, moving = images["fixed"], images["moving"]
    warped = images.get("warped")
    if warped is None or not warped.grid.matches(fixed.grid):  # its header alone was turned
        darkest = float(moving.array.min())
        warped = resample(moving, fixed.grid, transform, background=darkest)
    return SavedRun(
        fixed=fixed,
        moving=moving,
        warped=warped,
        transform=transform,
        jacobian=images.get("jacobian"),
        match_spread=images.get("match_spread"),
        labels=(images.get("fixed_seg"), images.get("moving_seg")),
        names=names,
        record=None if record is None else _with_names(_with_changes(record, paths), names),
    )


def _read(role: str, path: Path, record: RunRecord | None) -> Image:
    """The same series or time point that was registered; of vectors, the first component."""
    if role not in ("fixed", "moving", "warped"):
        return read_image(path, allow_nan=False)
    options: dict[str, Any] = {}
    if record and role != "warped":
        options = {name: record.options.get(name) for name in ("series_uid", "time_index")}
    return read_contrasts(path, average=role == "moving", **options)[0]


def load_case(record_path: Path, index_folder: Path) -> Case:
    """A case of a batch; what can't be read is told on its card instead of ending the page."""
    name = record_path.stem
    try:
        run = load_run(record_path, {})
    except CarlError as error:
        return Case(name, error=error.message)
    assert run.record is not None
    page = run.record.outputs.get("report")
    report = located(page.path, record_path) if page else None
    return Case(name, run.record, _relative(report, index_folder), run.thumbnail())


def _relative(path: Path | None, folder: Path) -> str:
    """Only pages in or below the folder of the index are linked: it may be moved as a whole."""
    if path is None or not path.resolve().is_relative_to(folder.resolve()):
        return ""
    return path.resolve().relative_to(folder.resolve()).as_posix()


def _paths(
    record: RunRecord | None, record_path: Path | None, given: Mapping[str, Path | None]
) -> dict[str, Path]:
    entries = {} if record is None else _files(record)
    found: dict[str, Path] = {}
    for role in ROLES:
        if chosen := given.get(role):
            found[role] = chosen
        elif role in entries:
            place = located(entries[role].path, record_path)
            if place is None and role in NEEDED:
                raise InputError(
                    f"{entries[role].path}, {NEEDED[role]} of this run, is not there",
                    "run from the folder of the registration, or name the file",
                )
            if place is not None:
                found[role] = place
    return found


def _files(record: RunRecord) -> dict[str, InputFile | OutputFile]:
    return {**record.inputs, **record.outputs}


def located(path: str, record_path: Path | None) -> Path | None:
    """Where a recorded file is now: as recorded, or beside the record."""
    beside = record_path.parent if record_path else Path()
    places = (Path(path), beside / path, beside / Path(path).name)
    return next((place for place in places if place.exists()), None)


def _with_names(record: RunRecord, names: Mapping[int, LabelName]) -> RunRecord:
    by_label = {str(label): name._asdict() for label, name in names.items()}
    scores = [
        score.model_copy(update=by_label.get(score.label, {}))
        for score in record.metrics.structures
    ]
    metrics = record.metrics.model_copy(update={"structures": scores})
    return record.model_copy(update={"metrics": metrics})


def _with_changes(record: RunRecord, paths: Mapping[str, Path]) -> RunRecord:
    """The record with a warning for every file that is not the one of the run any more."""
    known = _files(record)
    changed = [
        f"{path.name} ({role}) is not the file of this run: its hash differs."
        for role, path in paths.items()
        if role in known and sha256_of(path) != known[role].sha256
    ]
    return record.model_copy(update={"warnings": [*record.warnings, *changed]})

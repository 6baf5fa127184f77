"""The table of pairs: read and checked whole, every problem with its line, before any work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from carl_cli.batch.naming import default_name
from carl_cli.errors import InputError
from carl_cli.io.csv import (
    ExistingFile,
    cell_told,
    cells_by_column,
    gathered,
    header_of,
    table_lines,
)
from carl_cli.preprocessing.options import ImageOptions, cells_of
from carl_cli.registration.options import ChannelOptions, GuideOptions, StartOptions
from carl_cli.weights.options import InstanceChoices
from carl_cli.workflows.request import CaseInputs, listed

CHANNELS = ("fixed_channel", "moving_channel")
"""Columns that may be numbered, one for each further contrast."""
RESERVED = ("shards", "summary.csv", "index.html")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NUMBERED = re.compile(rf"({'|'.join(CHANNELS)})[1-9]\d*")


def _usable(name: str) -> str:
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(f"{name!r} can't name a folder: use letters, digits and . _ -")
    return name


class _Pair(BaseModel):
    """The columns that are no options, and what is checked of a whole row."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    fixed: ExistingFile
    moving: ExistingFile
    id: Annotated[str, AfterValidator(_usable)] = ""

    @model_validator(mode="before")
    @classmethod
    def _contrasts(cls, cells: Any) -> Any:
        return gathered(cells, *CHANNELS)

    @field_validator("window", "percentiles", mode="before", check_fields=False)
    @classmethod
    def _numbers(cls, cell: Any) -> Any:
        """Two numbers in one cell, as on the command line."""
        if not isinstance(cell, str):
            return cell
        if len(numbers := cell.split()) != 2:
            raise ValueError(f"two numbers expected, found {cell}")
        return numbers

    @model_validator(mode="after")
    def _both_sides(self) -> _Pair:
        """Only both sides together give a score."""
        for name in ("seg", "points"):
            sides = {f"{side}_{name}" for side in ("fixed", "moving")}
            missing = {side for side in sides if getattr(self, side) is None}
            if len(missing) == 1:
                given = (sides - missing).pop()
                raise ValueError(f"{given} is given but {missing.pop()} is not")
        return self

    @model_validator(mode="after")
    def _both_contrasts(self) -> _Pair:
        """As many of both images."""
        fixed, moving = (len(getattr(self, name) or ()) for name in CHANNELS)
        if fixed != moving:
            raise ValueError(
                f"{fixed} further contrasts of the fixed image meet {moving} of the moving one"
            )
        return self


def _files() -> dict[str, Any]:
    """Of CaseInputs; a file must be there."""
    cells = cells_of(CaseInputs)
    paths = {name for name, (kind, _) in cells.items() if Path in get_args(get_args(kind)[0])}
    paths.add("initial_transform")  # one, in a table
    name = Annotated[ExistingFile, AfterValidator(str)]  # as on the command line
    several = Annotated[list[name] | None, BeforeValidator(listed)]
    return {
        **cells,
        **dict.fromkeys(paths, (ExistingFile | None, None)),
        **dict.fromkeys(CHANNELS, (several, None)),
    }


OPTIONS = {
    **_files(),
    **cells_of(ImageOptions),
    **cells_of(StartOptions),
    **cells_of(GuideOptions),
    **cells_of(ChannelOptions),
    "io": (bool | None, None),
    **cells_of(InstanceChoices),
}
"""The optional columns beside id, each an option of `carl register`."""
Cells: Any = create_model("Cells", __base__=_Pair, **OPTIONS)
COLUMNS = ("fixed", "moving", "id", *OPTIONS)


@dataclass(frozen=True)
class Row:
    """One pair. options: what the row says of the options of `carl register`, by their names."""

    id: str
    fixed: Path
    moving: Path
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A line of the table: a row, or the error that keeps it from being one."""

    name: str
    line: int
    row: Row | None
    error: str = ""


def read_table(path: Path, defaults: Mapping[str, Path] | None = None) -> list[Entry]:
    """CSV (comma or semicolon) or TSV with a header; `defaults` fill cells that are empty.

    Raises InputError when the file is no such table; a bad line becomes an Entry with its error.
    """
    lines = table_lines(path)
    if not lines:
        raise InputError(f"{path} is empty", "the first line names the columns: fixed,moving")
    header = _header(path, lines)
    if len(lines) == 1:
        raise InputError(f"{path} has a header but no pairs", "add a line for each pair")
    folder = path.absolute().parent
    filled = {role: str(value.absolute()) for role, value in (defaults or {}).items()}
    return named_once(_entry(number, cells, header, folder, filled) for number, cells in lines[1:])


def _header(path: Path, lines: Sequence[tuple[int, list[str]]]) -> list[str]:
    header = header_of(path, lines)
    known = (name in COLUMNS or _NUMBERED.fullmatch(name) for name in header)
    unknown = [name for name, is_one in zip(header, known, strict=True) if not is_one]
    if unknown:
        raise InputError(
            f"{path}, line 1: unknown column {unknown[0]!r}", f"columns are {', '.join(COLUMNS)}"
        )
    missing = [name for name in ("fixed", "moving") if name not in header]
    if missing:
        raise InputError(f"{path}, line 1: no column {missing[0]!r}", "name the columns in line 1")
    return header


def _entry(
    line: int, cells: list[str], header: list[str], folder: Path, defaults: Mapping[str, str]
) -> Entry:
    try:
        own = cells_by_column(header, cells)
    except InputError as error:
        return refused(line, error.message)
    return entry_of(line, {**defaults, **own}, folder)


def entry_of(line: int, values: Mapping[str, Any], folder: Path) -> Entry:
    """Values by column name as a row, named; relative paths start at `folder`."""
    try:
        cells = Cells.model_validate(dict(values), context=folder)
    except ValidationError as error:
        return refused(line, "; ".join(cell_told(problem) for problem in error.errors()))
    told = {name: getattr(cells, name) for name in OPTIONS}
    options = {name: value for name, value in told.items() if value is not None}
    row = Row(cells.id, cells.fixed, cells.moving, options)
    return Entry(row.id or default_name(row.fixed, row.moving), line, row)


def refused(line: int, error: str) -> Entry:
    return Entry(f"(line {line})", line, None, error)


def named_once(entries: Iterable[Entry]) -> list[Entry]:
    """The first of several rows with one name keeps it. Case-blind, as some file systems are."""
    seen: dict[str, int] = {}
    return [_unless_seen(entry, seen) for entry in entries]


def _unless_seen(entry: Entry, seen: dict[str, int]) -> Entry:
    first = seen.setdefault(entry.name.casefold(), entry.line)
    if first == entry.line:
        return entry
    return refused(entry.line, f"line {first} is called {entry.name!r} too: give an id")

"""Tables that people open in a spreadsheet: their lines, and cells that stay text."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from carl_cli.errors import InputError, told

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula, which may call programs."""


def inert(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with text that would become a formula marked as text, by an apostrophe."""
    return {k: inert_text(v) if isinstance(v, str) else v for k, v in row.items()}


def inert_text(value: str) -> str:
    """One cell of text, as in `inert`."""
    return f"'{value}" if value.startswith(FORMULA) else value


def table_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line number (where the record ends) and cells of all lines that are not blank."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file", "name the table of pairs")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", "save it as UTF-8 CSV") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "name the table of pairs") from error
    reader = csv.reader(text.splitlines(keepends=True), delimiter=_delimiter(path, text))
    try:
        found = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}", "correct this line") from error
    return [(number, cells) for number, cells in found if any(cells)]


def header_of(path: Path, lines: Sequence[tuple[int, list[str]]]) -> list[str]:
    """The columns' names in small letters, none of an empty table. Raises InputError for one that
    occurs twice: nobody could tell which counts."""
    header = [cell.lower() for cell in lines[0][1]] if lines else []
    check_named_once(path, header)
    return header


def check_named_once(path: Path, header: Sequence[str]) -> None:
    """Raises InputError."""
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise InputError(f"{path}, line 1: column {twice[0]!r} occurs twice", "keep one of them")


def cells_by_column(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Those of a line that are not empty. Raises InputError unless they are as many, and each
    column has a name of its own."""
    if len(set(header)) < len(header):
        raise InputError("the header names a column twice")
    if len(cells) != len(header):
        raise InputError(f"{len(cells)} cells, the header has {len(header)}")
    return {name: cell for name, cell in zip(header, cells, strict=True) if cell}


def gathered(cells: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Cells by column, those of numbered columns as one list: channel1, channel2, … as channel.

    Raises ValueError for a number that is left out: what follows would belong to another one.
    """
    found = dict(cells)
    for name in names:
        own = [column for column in found if re.fullmatch(rf"{name}[1-9]\d*", column)]
        wanted = [f"{name}{k}" for k in range(1, len(own) + 1)]
        if missing := [column for column in wanted if column not in own]:
            raise ValueError(f"{missing[0]} is missing, and a further contrast comes after it")
        if wanted and name in found:
            raise ValueError(f"{name} and {name}1 are the same: keep one of them")
        if listed := [found.pop(column) for column in wanted]:
            found[name] = listed
    return found


def _delimiter(path: Path, text: str) -> str:
    """Spreadsheets write semicolons where the comma is the decimal sign."""
    first = text.partition("\n")[0]
    if path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first):
        return "\t"
    return ";" if ";" in first and "," not in first else ","


def _existing(path: Path, info: ValidationInfo) -> Path:
    """Relative paths start at the folder of the table, wherever the command is run."""
    folder: Any = info.context
    found = os.path.join(folder, os.path.expanduser(path))  # leaves a ~name that nobody has
    if not os.path.exists(found):  # False for names that no file system takes
        raise ValueError(f"no such file: {found}")
    return Path(found)


ExistingFile = Annotated[Path, AfterValidator(_existing)]
"""A cell that names a file; the folder of the table is the context of the validation."""


def cell_told(problem: Mapping[str, Any]) -> str:
    """What pydantic found wrong with a cell, in one line."""
    if problem["type"] == "missing":
        return f"{problem['loc'][0]}: the cell is empty"
    name, *place = problem["loc"] or ("",)
    if place and name.endswith("channel"):  # as its column is called
        return told({**problem, "loc": (f"{name}{place[0] + 1}",)})
    return told(problem)

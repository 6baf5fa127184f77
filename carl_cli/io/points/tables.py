"""Tables: CSV with a header, as ANTs has it (x, y, z, t), and plain columns of numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Container

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.csv import inert_text
from carl_cli.io.numbers import as_numbers, is_number
from carl_cli.io.points.document import Document, number

AXES = ("x", "y", "z")
WORDS = re.compile(r"(?!(?i:[-+]?(?:nan|inf)))[^\d]*")
"""A title, such as `x y z`: no digits, and no number in words."""
LABEL_COLUMNS = ("label", "name", "id")


def read_csv(content: bytes, name: str, dimension: int) -> Document:
    """Columns named x, y, z in any place; all others (t, label, comment) are kept as they are."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except csv.Error as error:
        raise InputError(f"{name}: not a CSV table: {error}") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    missing = [axis for axis in AXES[:dimension] if axis not in header]
    if missing:
        raise InputError(
            f"{name}: no column {', '.join(missing)} in the first line",
            "a CSV of points starts with a line like x,y,z,t; plain columns belong in a .txt",
        )
    twice = [axis for axis in AXES[:dimension] if header.count(axis) > 1]
    if twice:
        raise InputError(f"{name}: more than one column {', '.join(twice)} in the first line")
    columns = [header.index(axis) for axis in AXES[:dimension]]
    body = [row for row in rows[1:] if row]
    short = next((k for k, row in enumerate(body) if len(row) <= max(columns)), None)
    if short is not None:
        raise InputError(f"{name}: row {short + 1} has {len(body[short])} of {len(header)} columns")
    if dimension == 2:
        _check_flat(header, body, name)
    numbers = _numbers([[row[c] for c in columns] for row in body], name, dimension)

    def rewrite(values: Array) -> bytes:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(rows[0])
        for row, point in zip(body, values, strict=True):
            cells = dict(zip(columns, map(number, point), strict=True))
            writer.writerow([cells.get(k, cell) for k, cell in enumerate(row)])
        return stream.getvalue().encode()

    return Document(numbers, None, rewrite, _labels(header, body))


def _check_flat(header: list[str], body: list[list[str]], name: str) -> None:
    """ANTs gives 2D points a third coordinate, 0. Any other would be kept as if it were mapped."""
    column = header.index("z") if "z" in header else len(header)
    cells = [row[column].strip() for row in body if len(row) > column]
    if deep := [cell for cell in cells if cell and not (is_number(cell, True) and not float(cell))]:
        raise InputError(
            f"{name}: a point with z = {deep[0][:20]}, the transform is of two dimensions",
            "leave z out, or 0",
        )


def _labels(header: list[str], body: list[list[str]]) -> tuple[str, ...]:
    column = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    return () if column is None else tuple(row[column] if column < len(row) else "" for row in body)


def _numbers(cells: list[list[str]], name: str, dimension: int) -> Array:
    row = next((k for k, found in enumerate(cells, 1) if not _are_numbers(found)), None)
    if row is not None:
        raise InputError(f"{name}: point {row}: a coordinate is not a number")
    return np.array(cells, float).reshape(len(cells), dimension)


def _are_numbers(cells: list[str]) -> bool:
    try:
        return len(as_numbers(cells)) > 0
    except ValueError:
        return False


def new_csv(values: Array, labels: tuple[str, ...]) -> bytes:
    """x, y, z, t = 0 and the labels, as antsApplyTransformsToPoints reads it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*AXES[: values.shape[1]], "t", "label"])
    for k, point in enumerate(values):
        writer.writerow([*map(number, point), "0", inert_text(labels[k])])
    return stream.getvalue().encode()


def read_text(content: bytes, name: str, dimension: int) -> Document:
    """Lines that begin with numbers are points; further columns and other lines are kept."""
    lines = content.decode().splitlines(keepends=True)
    if lines and lines[0].strip() == "index":
        raise InputError(
            f"{name}: elastix points given as voxel indices", "positions in mm begin with `point`"
        )
    pattern = re.compile(r"\s*" + r"[\s,;]+".join([r"([-+\d.eE]+)"] * dimension) + r"(?=[\s,;]|$)")
    matches = {k: match for k, line in enumerate(lines) if (match := pattern.match(line))}
    if not matches:
        raise InputError(f"{name}: no line with {dimension} numbers", "one point a line: x y z")
    _check_others(lines, matches, name)
    _check_order(lines[: min(matches)], name, dimension)
    for k, match in matches.items():
        _check_separators(match, f"{name}: line {k + 1}")
    numbers = _numbers([list(match.groups()) for match in matches.values()], name, dimension)

    def rewrite(values: Array) -> bytes:
        result = list(lines)
        for (k, match), point in zip(matches.items(), values, strict=True):
            result[k] = " ".join(map(number, point)) + lines[k][match.end() :]
        return "".join(result).encode()

    return Document(numbers, None, rewrite)


def _check_separators(match: re.Match[str], line: str) -> None:
    """Decimal commas (1,5 2,0 3,0) and empty cells (1,,2,3) would pass for other numbers."""
    between = re.findall(r"[\s,;]+", match.group().strip())
    kinds = {"".join(run.split()) for run in between}
    follows = match.string[match.end() :]
    decimal = kinds != {","} and re.match(r",\d", follows)
    if decimal or len(kinds) > 1 or not kinds <= {"", ",", ";"}:
        raise InputError(
            f"{line}: numbers apart by different marks, or a decimal comma",
            "write decimal points, and one mark between numbers: x y z",
        )


def _check_order(titles: list[str], name: str, dimension: int) -> None:
    """A title that names the columns must name them as they are read."""
    for title in titles:
        words = re.split(r"[\s,;]+", title.strip().strip("#").strip().lower())
        if set(AXES[:dimension]) <= set(words) and words[:dimension] != [*AXES[:dimension]]:
            raise InputError(
                f"{name}: the columns are {' '.join(AXES[:dimension])} in another order",
                "save it as .csv, whose columns may stand anywhere",
            )


def _check_others(lines: list[str], points: Container[int], name: str) -> None:
    """A line that is no point may be blank, a comment, a title in words, or elastix's count."""
    first = next(k for k in range(len(lines)) if k in points)
    counted = lines[0].strip() == "point"
    for k, line in enumerate(lines):
        text = line.strip()
        if k in points or not text or text.startswith("#") or (k == 1 and counted):
            continue
        if k > first or not WORDS.fullmatch(text):
            raise InputError(f"{name}: line {k + 1} is no point")
    announced = lines[1].strip() if counted and len(lines) > 1 else ""
    found = sum(k in points for k in range(len(lines)))
    if announced and not announced.isascii():
        raise InputError(f"{name}: line 2 is no number of points")
    if re.fullmatch(r"[0-9]+", announced) and announced.lstrip("0") != str(found or ""):
        raise InputError(f"{name}: {announced} points were announced, {found} are there")


def new_text(values: Array) -> bytes:
    return "".join(" ".join(map(number, point)) + "\n" for point in values).encode()

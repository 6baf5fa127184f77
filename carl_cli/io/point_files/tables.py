"""Tables: CSV with a header, as ANTs has it (x, y, z, t), and plain columns of numbers."""

from __future__ import annotations

import csv
import io
import re

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.point_files.document import Document, number

AXES = ("x", "y", "z")
LABEL_COLUMNS = ("label", "name", "id")


def read_csv(content: bytes, name: str, dimension: int) -> Document:
    """Columns named x, y, z in any place; all others (t, label, comment) are kept as they are."""
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    missing = [axis for axis in AXES[:dimension] if axis not in header]
    if missing:
        raise InputError(
            f"{name}: no column {', '.join(missing)} in the first line",
            "A CSV of points starts with a line like x,y,z,t; plain columns belong in a .txt.",
        )
    columns = [header.index(axis) for axis in AXES[:dimension]]
    body = [row for row in rows[1:] if row]
    short = next((k for k, row in enumerate(body) if len(row) <= max(columns)), None)
    if short is not None:
        raise InputError(f"{name}: row {short + 1} has {len(body[short])} of {len(header)} columns")
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


def _labels(header: list[str], body: list[list[str]]) -> tuple[str, ...]:
    column = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    return () if column is None else tuple(row[column] for row in body)


def _numbers(cells: list[list[str]], name: str, dimension: int) -> Array:
    try:
        return np.array(cells, float).reshape(len(cells), dimension)
    except ValueError as error:
        raise InputError(f"{name}: a coordinate is not a number: {error}") from error


def new_csv(values: Array, labels: tuple[str, ...]) -> bytes:
    """x, y, z, t = 0 and the labels, as antsApplyTransformsToPoints reads it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*AXES[: values.shape[1]], "t", "label"])
    for k, point in enumerate(values):
        writer.writerow([*map(number, point), "0", labels[k]])
    return stream.getvalue().encode()


def read_text(content: bytes, name: str, dimension: int) -> Document:
    """Lines that begin with numbers are points; further columns and other lines are kept."""
    lines = content.decode().splitlines(keepends=True)
    if lines and lines[0].strip() == "index":
        raise InputError(
            f"{name}: elastix points given as voxel indices", "Positions in mm begin with `point`."
        )
    pattern = re.compile(r"\s*" + r"[\s,;]+".join([r"([-+\d.eE]+)"] * dimension) + r"(?=[\s,;]|$)")
    matches = {k: match for k, line in enumerate(lines) if (match := pattern.match(line))}
    if not matches:
        raise InputError(f"{name}: no line with {dimension} numbers", "One point a line: x y z")
    numbers = _numbers([list(match.groups()) for match in matches.values()], name, dimension)

    def rewrite(values: Array) -> bytes:
        result = list(lines)
        for (k, match), point in zip(matches.items(), values, strict=True):
            result[k] = " ".join(map(number, point)) + lines[k][match.end() :]
        return "".join(result).encode()

    return Document(numbers, None, rewrite)


def new_text(values: Array) -> bytes:
    return "".join(" ".join(map(number, point)) + "\n" for point in values).encode()

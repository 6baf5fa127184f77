"""3D Slicer's markups: `.fcsv` and `.mrk.json`. Both say in which frame their numbers are."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.numbers import as_numbers
from carl_cli.io.points.document import Document, Frame, number

FRAMES: dict[str, Frame] = {"0": "RAS", "RAS": "RAS", "1": "LPS", "LPS": "LPS"}
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def read_fcsv(content: bytes, name: str) -> Document:
    """`# CoordinateSystem = 0` (or RAS), `1` (or LPS); files older than that line are RAS."""
    lines = content.decode().splitlines()
    header = dict(_setting(line) for line in lines if line.startswith("#") and "=" in line)
    frame = _frame(header.get("CoordinateSystem", "RAS"), name)
    columns = header.get("columns", FCSV_COLUMNS).replace(" ", "").split(",")
    places = [k for k, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    rows = [next(csv.reader([lines[k]])) for k in places]
    try:
        where = [columns.index(axis) for axis in "xyz"]
        cells = [as_numbers(row[c] for c in where) for row in rows]
        numbers = np.array(cells, float).reshape(-1, 3)
    except (ValueError, IndexError):
        raise InputError(f"{name}: a markup without three coordinates") from None

    def rewrite(values: Array) -> bytes:
        result = list(lines)
        for k, row, point in zip(places, rows, values, strict=True):
            cells = dict(zip(where, map(number, point), strict=True))
            result[k] = _row([cells.get(c, cell) for c, cell in enumerate(row)])
        return ("\n".join(result) + "\n").encode()

    label = columns.index("label") if "label" in columns else 0
    return Document(numbers, frame, rewrite, tuple(row[label] for row in rows if len(row) > label))


def _setting(line: str) -> tuple[str, str]:
    key, value = line.lstrip("# ").split("=", 1)
    return key.strip(), value.strip()


def _row(cells: list[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()


def _frame(value: str, name: str) -> Frame:
    if value not in FRAMES:
        raise InputError(
            f"{name}: its coordinate system is neither LPS nor RAS",
            "save the markups in LPS or RAS",
        )
    return FRAMES[value]


def new_fcsv(values: Array, labels: tuple[str, ...]) -> bytes:
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
    rows = [
        _row([str(k + 1), *map(number, p), "0", "0", "0", "1", "1", "1", "0", name, "", ""])
        for k, (p, name) in enumerate(zip(values, labels, strict=True))
    ]
    return (head + f"# columns = {FCSV_COLUMNS}\n" + "".join(r + "\n" for r in rows)).encode()


def read_markups(content: bytes, name: str) -> Document:
    """All control points of all markups that have a position; one coordinate system for all."""
    try:
        document = json.loads(content)
        systems = [markup.get("coordinateSystem", "LPS") for markup in document["markups"]]
        points = _control_points(document)
        numbers = np.array([p["position"] for p in points], float).reshape(len(points), 3)
        labels = tuple(str(p.get("label", "")) for p in points)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"not JSON: {error}" if isinstance(error, json.JSONDecodeError) else "no markups"
        raise InputError(f"{name}: not a Slicer markups file: {reason}") from None
    frames = {_frame(str(system), name) for system in systems}
    if len(frames) != 1:
        raise InputError(f"{name}: markups in several coordinate systems", "save them separately")

    def rewrite(values: Array) -> bytes:
        copy = json.loads(content)
        for point, position in zip(_control_points(copy), values, strict=True):
            point["position"] = [float(number(v)) for v in position]
        return json.dumps(copy, indent=4).encode()

    return Document(numbers, frames.pop(), rewrite, labels)


def _control_points(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        point
        for markup in document["markups"]
        for point in markup.get("controlPoints", [])
        if point.get("positionStatus", "defined") != "undefined"
    ]


def new_markups(values: Array, labels: tuple[str, ...]) -> bytes:
    points = [
        {"id": str(k + 1), "label": label, "position": [float(number(v)) for v in position]}
        for k, (position, label) in enumerate(zip(values, labels, strict=True))
    ]
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
        "Resources/Schema/markups-schema-v1.0.3.json#"
    )
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}
    return json.dumps({"@schema": schema, "markups": [markup]}, indent=4).encode()

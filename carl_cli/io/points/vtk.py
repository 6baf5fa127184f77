"""VTK geometry: legacy `.vtk`, ASCII and binary. Only the points change."""

from __future__ import annotations

import logging
import re
from itertools import islice

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.numbers import as_numbers
from carl_cli.io.points.document import Document, Frame, number

log = logging.getLogger(__name__)

POINTS = re.compile(rb"^POINTS\s+(\d{1,18})\s+(\w+)[^\S\n]*\r?\n", re.MULTILINE)
POINTS_FOLLOW = re.compile(rb"\s*(?:[A-Za-z#]|$)")
LEGACY_TYPES = {"float": ">f4", "double": ">f8"}


def read_legacy(content: bytes, name: str) -> Document:
    """The second line may say SPACE=LPS or SPACE=RAS (Slicer writes it)."""
    head = content[:1024].split(b"\n")
    match = POINTS.search(content)
    if not content.startswith(b"# vtk DataFile") or match is None or len(head) < 3:
        raise InputError(f"{name}: not a legacy VTK file with points")
    count, kind = int(match[1]), match[2].decode().lower()
    if kind not in LEGACY_TYPES:
        raise InputError(f"{name}: points of type {kind}", "save them as float or double")
    _warn_of_normals(content, name)
    frame = _space(head[1].decode("latin-1"))
    start = match.end()
    if head[2].strip().upper() == b"BINARY":
        return _binary(content, start, count, np.dtype(LEGACY_TYPES[kind]), frame, name)
    return _ascii(content, start, count, frame, name)


def _binary(
    content: bytes,
    start: int,
    count: int,
    dtype: np.dtype[np.floating],
    frame: Frame | None,
    name: str,
) -> Document:
    end = start + 3 * count * dtype.itemsize
    if end > len(content):
        raise InputError(f"{name}: {count} points were announced, the file ends before them")
    numbers = np.frombuffer(content[start:end], dtype).reshape(count, 3).astype(float)

    def rewrite(values: Array) -> bytes:
        return content[:start] + values.astype(dtype).tobytes() + content[end:]

    return Document(numbers, frame, rewrite)


def _ascii(content: bytes, start: int, count: int, frame: Frame | None, name: str) -> Document:
    if count > len(content):
        raise InputError(f"{name}: {count} points were announced, the file ends before them")
    words = list(islice(re.compile(rb"\S+").finditer(content, start), 3 * count))
    end = words[-1].end() if words else start
    try:
        cells = as_numbers(word[0].decode("latin-1") for word in words)
        numbers = np.array(cells, float).reshape(count, 3)
    except ValueError as error:
        raise InputError(f"{name}: {count} points were announced: {error}") from error
    if POINTS_FOLLOW.match(content, end) is None:
        raise InputError(f"{name}: more numbers than the {count} points that were announced")

    def rewrite(values: Array) -> bytes:
        return content[:start] + _lines(values).rstrip() + content[end:]

    return Document(numbers, frame, rewrite)


def _lines(values: Array) -> bytes:
    return "".join(" ".join(map(number, point)) + "\n" for point in values).encode()


def _space(title: str) -> Frame | None:
    match = re.search(r"SPACE=(LPS|RAS)", title)
    return None if match is None else "LPS" if match[1] == "LPS" else "RAS"


def _warn_of_normals(content: bytes, name: str) -> None:
    if re.search(rb"^NORMALS", content, re.MULTILINE):
        log.warning("%s: normals are copied as they are; compute them again", name)


def new_legacy(values: Array) -> bytes:
    count = len(values)
    vertices = "".join(f"1 {k}\n" for k in range(count)).encode()
    head = "# vtk DataFile Version 3.0\ncarl points SPACE=LPS\nASCII\nDATASET POLYDATA\n"
    points = f"POINTS {count} double\n".encode() + _lines(values)
    return head.encode() + points + f"VERTICES {count} {2 * count}\n".encode() + vertices

"""Point files ↔ LPS points. The suffix names the format.

.csv (columns x, y, z, t as in ANTs)   .txt (plain columns)   .fcsv .mrk.json (3D Slicer)
.vtk (poly data)   .gii .white .pial .stl .ply .obj (surfaces)   .tck .trk (streamlines)

Written in the format it was read from, a file keeps everything but the coordinates: columns,
their order, labels, cells, and the frame of its numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Array
from carl_cli.io.atomic import atomic_path, full_suffix
from carl_cli.io.points import slicer, surfaces, tables, vtk
from carl_cli.io.points.document import Document, Frame
from carl_cli.io.ras import flip_vectors

READABLE = (".csv", ".txt", ".fcsv", ".mrk.json", ".vtk", *surfaces.SUFFIXES)
WRITERS: dict[str, Callable[[Array, tuple[str, ...]], bytes]] = {
    ".csv": tables.new_csv,
    ".txt": lambda values, _: tables.new_text(values),
    ".fcsv": slicer.new_fcsv,
    ".mrk.json": slicer.new_markups,
    ".vtk": lambda values, _: vtk.new_legacy(values),
}
TEXTS = (".csv", ".txt", ".fcsv")


@dataclass(frozen=True, eq=False)
class PointSet:
    """points_lps: (N, D) mm, D = 2 or 3. frame: of the numbers in the file it came from."""

    points_lps: Array
    frame: Frame
    suffix: str
    document: Document

    def moved_to(self, points_lps: Array) -> PointSet:
        """The same file with other positions, in the same order."""
        return replace(self, points_lps=np.asarray(points_lps, float))


def read_points(path: str | Path, *, frame: Frame | None = None, dimension: int = 3) -> PointSet:
    """Read a point file.

    frame: overrides what the file says about its numbers; without either they are LPS (ITK,
    ANTs). Raises InputError.
    """
    path = Path(path)
    suffix = full_suffix(path).lower()
    if suffix not in READABLE:
        hint = "save it as .vtk" if suffix == ".vtp" else f"readable are {' '.join(READABLE)}"
        raise InputError(f"{path}: points are not read from files with this suffix", hint)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file", "give a file of points")
    try:
        document = _parse(path.read_bytes(), suffix, str(path), dimension)
    except (csv.Error, OverflowError) as error:
        raise InputError(f"{path}: a cell or a number is too long: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", "check the name of the point file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    if not np.isfinite(document.numbers).all():
        raise InputError(f"{path}: a coordinate is not finite", "remove that point")
    used = frame or document.frame or "LPS"
    return PointSet(_flip(document.numbers, used), used, suffix, document)


def _parse(content: bytes, suffix: str, name: str, dimension: int) -> Document:
    if suffix in TEXTS and b"\0" in content:
        raise InputError(f"{name}: zero bytes in a text file", "it is damaged; get it again")
    if suffix == ".csv":
        return tables.read_csv(content, name, dimension)
    if suffix == ".txt":
        return tables.read_text(content, name, dimension)
    if dimension != 3:
        raise InputError(f"{name}: {suffix} holds 3D points", "2D points: .csv or .txt")
    if suffix in surfaces.SUFFIXES:
        return surfaces.read_surface(content, suffix, name)
    readers = {
        ".fcsv": slicer.read_fcsv,
        ".mrk.json": slicer.read_markups,
        ".vtk": vtk.read_legacy,
    }
    return readers[suffix](content, name)


def _flip(points: Array, frame: Frame) -> Array:
    """Numbers in `frame` ↔ LPS; the same operation both ways."""
    return points if frame == "LPS" else flip_vectors(points)


def write_points(path: str | Path, points: PointSet, *, replace: bool = True) -> None:
    """In the input's own format everything else is kept; in another, LPS points and labels.

    Raises UsageError for a suffix that can't be written, OutputError.
    """
    path = Path(path)
    suffix = full_suffix(path).lower()
    if suffix == points.suffix:
        content = points.document.rewrite(_flip(points.points_lps, points.frame))
    elif suffix in WRITERS:
        content = WRITERS[suffix](points.points_lps, _labels(points))
    else:
        raise UsageError(
            f"{path}: points can't be written in this format", f"use {' '.join(WRITERS)}"
        )
    with atomic_path(path, replace=replace) as temporary:
        temporary.write_bytes(content)


def _labels(points: PointSet) -> tuple[str, ...]:
    count = len(points.points_lps)
    labels = tuple(map(_in_a_line, points.document.labels))
    return labels if len(labels) == count else tuple(str(k + 1) for k in range(count))


def _in_a_line(label: str) -> str:
    """Formats of lines can't be read back otherwise; half a pair of UTF-16 is no text at all."""
    return " ".join(label.encode("utf-8", "replace").decode().split())

"""MINC's `.xfm`: linear transforms and grids of displacements, one after the other.

It maps moving to fixed points between MINC's world coordinates, which are RAS; the first transform
of the file meets the point first. A grid is a MINC volume beside the file, x → x + d(x).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from carl_cli.errors import InputError
from carl_cli.io.images.files import read_any
from carl_cli.io.numbers import as_numbers
from carl_cli.io.ras import affine_from_ras, flip_vectors
from carl_cli.transforms import AffineTransform, DisplacementField, Transform, composed

MAGIC = "MNI Transform File"
COMMENT = re.compile(r"%[^\n]*")
Entries = dict[str, str]


def read_minc(path: Path) -> Transform:
    """Fixed to moving, LPS. Raises InputError for other kinds of transforms and missing grids."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        text = ""
    if not text.startswith(MAGIC):
        raise InputError(f"{path}: does not begin with {MAGIC!r}", "check that it is MINC's .xfm")
    *entries, rest = COMMENT.sub("", text.removeprefix(MAGIC)).split(";")
    if rest.strip() or any("=" not in entry for entry in entries):
        raise InputError(f"{path}: an entry without its = or ;", "it is damaged; get it again")
    found = _transforms(entries)
    if not found:
        raise InputError(f"{path}: no transform in it", "the file is truncated; get it again")
    return composed([_inverse(entries, path) for entries in found])


def _transforms(entries: list[str]) -> list[Entries]:
    found: list[Entries] = []
    for entry in entries:
        key, _, value = (word.strip() for word in entry.partition("="))
        if key == "Transform_Type":
            found.append({})
        if found:
            found[-1][key] = value
    return found


def _inverse(entries: Entries, path: Path) -> Transform:
    """Fixed to moving of one transform."""
    transform = _forward(entries, path)
    return transform if entries.get("Invert_Flag") == "True" else transform.inverse()


def _forward(entries: Entries, path: Path) -> Transform:
    kind = entries["Transform_Type"]
    if kind == "Linear":
        return _linear(entries.get("Linear_Transform", ""), path)
    if kind == "Grid_Transform":
        return _grid(path.parent / entries.get("Displacement_Volume", ""), path)
    raise InputError(
        f"{path}: a {kind} of MINC, Linear or Grid_Transform were expected",
        "mincresample applies it to the image itself",
    )


def _linear(text: str, path: Path) -> AffineTransform:
    try:
        rows = np.array(as_numbers(text.split())).reshape(3, 4)
    except ValueError:
        raise InputError(
            f"{path}: {len(text.split())} words, the 12 numbers of a linear transform were expected"
        ) from None
    return affine_from_ras(np.vstack([rows, [0, 0, 0, 1]]))


def _grid(volume: Path, path: Path) -> DisplacementField:
    if not volume.is_file():
        raise InputError(
            f"{path}: its grid {volume.name} is missing", "keep the .xfm and its .mnc together"
        )
    image = read_any(volume)
    if image.channels != 3 or image.grid.dimension != 3:
        raise InputError(f"{volume}: {image.channels} numbers a voxel, a grid of MINC has 3")
    return DisplacementField(image.grid, flip_vectors(image.array.astype(np.float32)))

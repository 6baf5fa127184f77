"""The numbers that an affine file states, to be compared with those that ITK took from it.

ITK takes a text without parameters for an identity, and more numbers or transforms than it
needs without a word.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Array

RELATIVE_TOLERANCE = 1e-6  # of transforms in single precision
MATLAB_HEAD = 20
MATLAB_TYPES = {0: "<f8", 10: "<f4", 1000: ">f8", 1010: ">f4"}
FIXED = b"fixed"  # ITK goes by the order alone; other readers by this name
COMPOSITE = "CompositeTransform"


@dataclass(frozen=True)
class Stated:
    """One transform of a file: all its parameters, and the fixed ones."""

    values: Array
    fixed: Array


def check_stated(path: Path, leaves: Sequence[sitk.Transform]) -> None:
    """Raise InputError where ITK's transforms are not what the file says."""
    try:
        stated = _stated(path)
    except (ValueError, KeyError, struct.error) as error:
        raise InputError(f"{path}: damaged: {error}", "get the file again") from None
    if len(stated) != len(leaves):
        raise InputError(
            f"{path}: {len(stated)} transforms, of which ITK reads {len(leaves)}",
            "keep one transform in the file",
        )
    for said, leaf in zip(stated, leaves, strict=True):
        pairs = (said.values, leaf.GetParameters()), (said.fixed, leaf.GetFixedParameters())
        if not all(_same(*pair) for pair in pairs) or not _of_right_length(leaf):
            raise InputError(
                f"{path}: {said.values.size} parameters and {said.fixed.size} fixed ones, "
                "not those of its transform",
                "the file is damaged; get it again",
            )


def is_well_formed(path: Path) -> bool:
    """Whether the file holds numbers where they belong, and none beyond its end."""
    try:
        return bool(_stated(path))
    except (ValueError, KeyError, struct.error):
        return False


def _stated(path: Path) -> list[Stated]:
    return list(_matlab(path) if path.suffix.lower() == ".mat" else _text(path))


def _of_right_length(leaf: sitk.Transform) -> bool:
    """ITK keeps numbers beyond those it needs; a new transform of the class has none."""
    if not leaf.IsLinear() or type(leaf) is sitk.Transform:
        return True
    any_dimension = sitk.AffineTransform | sitk.ScaleTransform | sitk.TranslationTransform
    new = type(leaf)(*([leaf.GetDimension()] if isinstance(leaf, any_dimension) else []))
    return all(
        len(getattr(new, get)()) == len(getattr(leaf, get)())
        for get in ("GetParameters", "GetFixedParameters")
    )


def _same(said: Array, read: Sequence[float]) -> bool:
    return said.shape == np.shape(read) and np.allclose(said, read, rtol=RELATIVE_TOLERANCE)


def _text(path: Path) -> Iterator[Stated]:
    fields: dict[str, str] = {}
    lines = path.read_bytes().decode("ascii").splitlines()
    for line in [line.strip() for line in lines] + ["Transform: "]:
        if not line or line.startswith("#"):
            continue
        key, _, value = line.partition(":")
        if key == "Transform":
            if fields and not fields["Transform"].startswith(COMPOSITE):
                yield Stated(_numbers(fields["Parameters"]), _numbers(fields["FixedParameters"]))
            fields = {}
        if key not in ("Transform", "Parameters", "FixedParameters") or key in fields:
            raise ValueError(f"a line that begins with {key[:20]!r}")
        fields[key] = value.strip()


def _numbers(text: str) -> Array:
    return np.array([float(word) for word in text.split()])


def _matlab(path: Path) -> Iterator[Stated]:
    """Level 4 files: a head of five integers, a name, the numbers; again and again."""
    content, at = path.read_bytes(), 0
    found: list[Array] = []
    while at < len(content):
        kind, rows, columns, imaginary, length = struct.unpack_from("<5i", content, at)
        if kind not in MATLAB_TYPES:
            kind, rows, columns, imaginary, length = struct.unpack_from(">5i", content, at)
        dtype = np.dtype(MATLAB_TYPES[kind])
        start, size = at + MATLAB_HEAD + length, rows * columns * dtype.itemsize
        if imaginary or min(rows, columns, length) < 0 or start + size > len(content):
            raise ValueError("a matrix that does not fit into the file")
        name = content[start - length : start].rstrip(b"\0")
        if len(found) % 2 and name != FIXED:
            raise ValueError(f"{name!r} where the fixed parameters of a transform belong")
        found.append(np.frombuffer(content, dtype, rows * columns, start).astype(float))
        at = start + size
    if len(found) % 2:
        raise ValueError("a transform without its fixed parameters")
    for values, fixed in zip(found[::2], found[1::2], strict=True):
        yield Stated(values, fixed)

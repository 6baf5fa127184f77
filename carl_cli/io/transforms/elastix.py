"""elastix's parameter files: `(Key value …)` lines, LPS mm, fixed to moving.

A file may name one that acts before it on fixed points, relative to its own folder.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.numbers import as_number, as_numbers, as_whole
from carl_cli.io.transforms.sitk import from_sitk_transform
from carl_cli.transforms import BSplineTransform, CompositeTransform, Transform

LINE = re.compile(r"^\s*\((\w+)\s+(.*)\)", re.MULTILINE)
ANY_DIMENSION = {
    "TranslationTransform": sitk.TranslationTransform,
    "AffineTransform": sitk.AffineTransform,
}
LINEAR = {
    ("EulerTransform", 2): sitk.Euler2DTransform,
    ("EulerTransform", 3): sitk.Euler3DTransform,
    ("SimilarityTransform", 2): sitk.Similarity2DTransform,
    ("SimilarityTransform", 3): sitk.Similarity3DTransform,
}
NONE = ("NoInitialTransform", "")
DEEPEST = 20
WAY_OUT = 'run elastix with (WriteITKCompositeTransform "true") and give its .tfm'
Fields = dict[str, list[str]]


def is_elastix(content: bytes) -> bool:
    return re.search(rb"^\s*\(Transform\s+\"", content, re.MULTILINE) is not None


def read_elastix(path: Path) -> Transform:
    """Translation, Euler, similarity, affine and cubic B-spline transforms, and chains of them."""
    parts: list[Transform] = []
    following: Path | None = path
    while following is not None:
        if len(parts) == DEEPEST:
            raise InputError(f"{path}: more than {DEEPEST} initial transforms, one after another")
        fields = _fields(following)
        parts.append(_transform(fields, following))
        following = _initial(fields, following)
    return parts[0] if len(parts) == 1 else CompositeTransform(tuple(parts))


def _fields(path: Path) -> Fields:
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no parameter file of elastix ({error})") from None
    found = LINE.findall(text)
    fields = {key: re.sub('"', "", value).split() for key, value in found}
    if len(fields) < len(found):
        raise InputError(f"{path}: a parameter stands there twice", "elastix refuses it as well")
    return fields


def _initial(fields: Fields, path: Path) -> Path | None:
    """InitialTransformParametersFileName; before elastix 5.1 it had another spelling."""
    names = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")
    name = next((" ".join(fields[key]) for key in names if key in fields), "")
    if name in NONE:
        return None
    if fields.get("HowToCombineTransforms", ["Compose"]) != ["Compose"]:
        raise InputError(f"{path}: transforms that are added, composed ones were expected", WAY_OUT)
    return path.parent / name if not Path(name).exists() else Path(name)


def _transform(fields: Fields, path: Path) -> Transform:
    kind = " ".join(fields.get("Transform", []))
    try:
        _check_count(fields)
        dimension = as_whole(" ".join(fields.get("FixedImageDimension", ["3"])))
        if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
            return _spline(fields, dimension)
        return from_sitk_transform(_linear(fields, kind, dimension))
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: a transform of elastix that is not read here: {kind or 'none'} ({error})",
            WAY_OUT,
        ) from None


def _check_count(fields: Fields) -> None:
    stated, held = fields.get("NumberOfParameters"), len(fields.get("TransformParameters", []))
    if stated is not None and as_number(" ".join(stated)) != held:
        raise ValueError(f"{held} parameters, {' '.join(stated)} were announced")


def _linear(fields: Fields, kind: str, dimension: int) -> sitk.Transform:
    make = ANY_DIMENSION.get(kind)
    made = make(dimension) if make else LINEAR[kind, dimension]()
    if "CenterOfRotationPoint" in fields:
        made.SetFixedParameters(_numbers(fields, "CenterOfRotationPoint") + _order(fields, kind))
    made.SetParameters(_numbers(fields, "TransformParameters"))
    return made


def _numbers(fields: Fields, key: str) -> list[float]:
    return as_numbers(fields[key])


def _order(fields: Fields, kind: str) -> list[float]:
    """The fourth fixed parameter of a 3D Euler transform: whether it turns about z, y, x."""
    is_3d = kind == "EulerTransform" and len(fields["CenterOfRotationPoint"]) == 3
    return [float(fields.get("ComputeZYX", ["false"]) == ["true"])] if is_3d else []


def _spline(fields: Fields, dimension: int) -> Transform:
    """Directions stand column after column, coefficients component after component."""
    if fields.get("BSplineTransformSplineOrder", ["3"]) != ["3"]:
        raise ValueError("its order is not 3")
    size = tuple(as_whole(word) for word in fields["GridSize"])
    spacing, origin, index = (
        np.array(_numbers(fields, key)) for key in ("GridSpacing", "GridOrigin", "GridIndex")
    )
    turn = np.array(_numbers(fields, "GridDirection")).reshape(dimension, dimension).T
    start = origin + turn @ (spacing * index)
    grid = Grid(size, tuple(spacing.tolist()), tuple(start.tolist()), tuple(turn.ravel().tolist()))
    values = np.array(_numbers(fields, "TransformParameters"))
    coefficients = np.moveaxis(values.reshape(dimension, *size[::-1]), 0, -1)
    return BSplineTransform(grid, coefficients)

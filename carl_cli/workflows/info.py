"""What a file is: the facts that `carl info` prints, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.geometry import Grid
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images.files import Image, read_any
from carl_cli.io.points.files import READABLE as POINTS
from carl_cli.io.points.files import read_points
from carl_cli.io.transforms import Program, split_program
from carl_cli.io.transforms.description import describe_file, ways
from carl_cli.io.transforms.dicom_registration import is_registration
from carl_cli.io.transforms.fields import is_field
from carl_cli.io.transforms.files import AFFINE, COMPOSITE, read_transform
from carl_cli.transforms import (
    AffineTransform,
    Deformation,
    DisplacementField,
    Transform,
    dense,
    jacobian_determinant,
)

Facts = dict[str, Any]
TRANSFORMS = (*COMPOSITE, *AFFINE, ".lta", ".xfm", ".x5")


def inspect(path: Path, program: Program | None = None) -> Facts:
    """Facts about a transform, an image or a file of points. Raises InputError."""
    named, plain = split_program(str(path))
    program = program or named
    suffix = full_suffix(path).lower()
    if program is not None:
        transform = read_transform(plain, program)
        facts: Facts = {"kind": "transform", "format": program} | _parts(transform)
        return facts | {"for_others": ways(f"{program}:{plain}", _is_affine(transform))}
    if suffix in TRANSFORMS or is_registration(path) or (path.is_file() and is_field(path)):
        return _transform(path)
    if suffix in POINTS:
        return _points(path)
    return _image(read_any(path))


def _transform(path: Path) -> Facts:
    transform = read_transform(path)
    file = describe_file(path)
    facts: Facts = {"kind": "transform", "format": file.format, "frame_on_disk": file.frame}
    if file.types:
        facts["types_in_file_order"] = list(file.types)
    if file.precision:
        facts["precision"] = file.precision
    for_others = ways(str(path), _is_affine(transform))
    return facts | _parts(transform) | {"read_by": file.readers, "for_others": for_others}


def _is_affine(transform: Transform) -> bool:
    return all(isinstance(part, AffineTransform) for part in transform.parts)


def _parts(transform: Transform) -> Facts:
    """The parts in the order in which a fixed point meets them."""
    return {
        "maps": "points of the fixed image to points of the moving image",
        "dimension": transform.dimension,
        "parts_first_to_act_first": [_part(part) for part in reversed(transform.parts)],
    }


def _part(part: Transform) -> Facts:
    if isinstance(part, AffineTransform):
        return _affine(part)
    if isinstance(part, Deformation):
        return _deformation(part)
    raise TypeError(f"no description of {type(part).__name__}")


def _affine(affine: AffineTransform) -> Facts:
    """Scales are singular values: the largest and smallest stretch."""
    scales = np.linalg.svd(affine.matrix, compute_uv=False)
    return {
        "type": "affine",
        "matrix": affine.matrix.tolist(),
        "translation_mm": affine.translation.tolist(),
        "determinant": float(np.linalg.det(affine.matrix)),
        "scales": scales.tolist(),
    }


def _deformation(part: Deformation) -> Facts:
    grid = part.sampling_grid
    field = part if isinstance(part, DisplacementField) else dense(part, grid)
    length = np.linalg.norm(field.displacement_mm, axis=-1)
    determinant = jacobian_determinant(field, grid)
    kind = "displacement field" if field is part else "cubic B-spline, sampled"
    return {
        "type": kind,
        **_grid(grid),
        "displacement_mm_mean": float(length.mean(dtype=float)),
        "displacement_mm_p99": float(np.percentile(length, 99)),
        "displacement_mm_max": float(length.max()),
        "jacobian_smallest": float(determinant.min()),
        "jacobian_largest": float(determinant.max()),
        "folded_voxels": int((determinant <= 0).sum()),
        "outside": "the border displacement goes on (ITK: no displacement)",
    }


def _grid(grid: Grid) -> Facts:
    corners = grid.corners_mm()
    return {
        "size_xyz": list(grid.size_xyz),
        "spacing_mm": list(grid.spacing_mm),
        "origin_mm_lps": list(grid.origin_mm),
        "direction": grid.direction_matrix.tolist(),
        "orientation": orientation(grid),
        "domain_mm_lps": [corners.min(axis=0).tolist(), corners.max(axis=0).tolist()],
    }


def orientation(grid: Grid) -> str:
    """Towards which side each index axis runs most, x first: LPS for an identity direction."""
    letters = np.array([["L", "R"], ["P", "A"], ["S", "I"]])[: grid.dimension]
    strongest = np.abs(grid.direction_matrix).argmax(axis=0)
    signs = [grid.direction_matrix[row, column] < 0 for column, row in enumerate(strongest)]
    return "".join(letters[row, int(s)] for row, s in zip(strongest, signs, strict=True))


def _points(path: Path) -> Facts:
    points = read_points(path)
    facts: Facts = {
        "kind": "points",
        "count": len(points.points_lps),
        "frame_on_disk": points.frame + ("" if points.document.frame else " (assumed)"),
    }
    if len(points.points_lps):
        facts["smallest_mm_lps"] = points.points_lps.min(axis=0).tolist()
        facts["largest_mm_lps"] = points.points_lps.max(axis=0).tolist()
    return facts


def _image(image: Image) -> Facts:
    facts: Facts = {"kind": "image", "voxel_type": str(image.array.dtype)}
    if image.channels > 1:
        facts[f"{image.channel_kind}_channels"] = image.channels
    low, high = (float(value) for value in (image.array.min(), image.array.max()))
    return facts | _grid(image.grid) | {"smallest_value": low, "largest_value": high}

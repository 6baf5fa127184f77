"""Transforms ↔ SimpleITK, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid
from carl_cli.io.images.files import grid_of, set_grid
from carl_cli.io.images.general import FARTHEST_MM
from carl_cli.transforms import (
    AffineTransform,
    BSplineTransform,
    DisplacementField,
    InverseField,
    Transform,
    composed,
    covering_grid,
    dense,
    extend,
)
from carl_cli.transforms.linear import RigidTransform, SimilarityTransform

CUBIC = 3
LATTICE = 9
MARGIN = 0.1
MOST_VOXELS = 2**30  # of a grid for an inverse


def field_to_sitk(field: DisplacementField, dtype: DTypeLike) -> sitk.Image:
    """Vector image of the displacement in mm LPS."""
    image = sitk.GetImageFromArray(field.displacement_mm.astype(dtype, copy=False), isVector=True)
    set_grid(image, field.grid)
    return image


def field_from_sitk(image: sitk.Image) -> DisplacementField:
    values = sitk.GetArrayFromImage(image)
    return DisplacementField(grid_of(image), values.astype(np.float32, copy=False))


def to_sitk_transform(transform: Transform, cover: Grid | None = None) -> sitk.Transform:
    """The same map as a SimpleITK transform (a composite in ITK's order for several parts).

    ITK's displacement drops to zero outside a field's buffer. With `cover`, the grid whose
    points will be mapped, fields are extended over all of it, so that the map is ours there
    too. A field's inverse has no ITK class: it is sampled on the field's grid (extended).
    """
    parts = [_part_to_sitk(part) for part in covering(transform, cover)]
    if len(parts) == 1:
        return parts[0]
    return sitk.CompositeTransform(parts)


def covering(transform: Transform, cover: Grid | None) -> list[Transform]:
    """The parts, first to last, as affines and fields whose buffers hold the mapped `cover`."""
    points = None if cover is None else _lattice(cover)
    result: list[Transform] = []
    for part in reversed(transform.parts):
        held = _hold(part, points)
        points = None if points is None else held(points)
        result.insert(0, held)
    return result


def _hold(part: Transform, points: Array | None) -> Transform:
    if isinstance(part, InverseField):
        return dense(part, inverse_grid(part, points))
    if isinstance(part, DisplacementField) and points is not None:
        return extend(part, _with_margin(points))
    return part


def inverse_grid(part: InverseField, points: Array | None = None) -> Grid:
    """The field's grid, extended over what the field reaches and over the given points.

    Raises InputError where that is more than any grid holds.
    """
    grid = part.field.sampling_grid
    around = grid.corners_mm() if points is None else points
    reached = np.vstack([around, part.field(grid.corners_mm())])
    wanted = covering_grid(grid, _with_margin(reached))
    if prod(wanted.size_xyz) > MOST_VOXELS:
        raise InputError(
            f"a field reaches so far that its inverse takes {prod(wanted.size_xyz):.3g} voxels",
            "check its displacements: they are millimetres",
        )
    return wanted


def _lattice(grid: Grid) -> Array:
    """(N, D) points spread over the grid, its outer corners included."""
    axes = [np.linspace(-0.5, n - 0.5, LATTICE) for n in grid.size_xyz]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.dimension)
    return index @ grid.index_to_lps[:-1, :-1].T + grid.index_to_lps[:-1, -1]


def _with_margin(points: Array) -> Array:
    """A lattice may miss the outermost mapped point by a little."""
    centre = points.mean(axis=0)
    return centre + (1 + MARGIN) * (points - centre)


def _part_to_sitk(part: Transform) -> sitk.Transform:
    if isinstance(part, SimilarityTransform):
        return similarity_to_sitk(part)
    if isinstance(part, AffineTransform):
        affine = sitk.AffineTransform(part.dimension)
        affine.SetMatrix(part.matrix.ravel().tolist())
        affine.SetTranslation(part.translation.tolist())
        return affine
    if isinstance(part, DisplacementField):
        return sitk.DisplacementFieldTransform(field_to_sitk(part, np.float64))
    if isinstance(part, BSplineTransform):
        return sitk.BSplineTransform(_coefficient_images(part), CUBIC)
    raise TypeError(f"no SimpleITK form of {type(part).__name__}")


def similarity_to_sitk(part: SimilarityTransform) -> sitk.Transform:
    """ITK's Euler or Similarity transform, about the origin of space."""
    rigid = isinstance(part, RigidTransform)
    kinds: dict[tuple[bool, int], Any] = {
        (True, 2): sitk.Euler2DTransform,
        (True, 3): sitk.Euler3DTransform,
        (False, 2): sitk.Similarity2DTransform,
        (False, 3): sitk.Similarity3DTransform,
    }
    held = kinds[rigid, part.dimension]()
    held.SetMatrix(((1.0 if rigid else part.scale) * part.rotation).ravel().tolist())
    held.SetTranslation(part.translation.tolist())
    made: sitk.Transform = held
    return made


LINEAR: dict[tuple[str, int], Any] = {
    ("AffineTransform", 12): lambda: sitk.AffineTransform(3),
    ("Euler3DTransform", 6): sitk.Euler3DTransform,
}
"""ITK's name and count of parameters → class, of what a series of transforms may hold."""


def linear_from_itk(name: str, fixed: list[float], values: list[float]) -> AffineTransform:
    """An affine or, where ITK's class is, a rigid transform from ITK's parameters. Raises
    ValueError for another class or another count of them."""
    if (name, len(values)) not in LINEAR:
        raise ValueError(f"{len(values)} numbers of {name}")
    held = LINEAR[name, len(values)]()
    held.SetFixedParameters(fixed)
    held.SetParameters(values)
    affine = _affine_from_sitk(held)
    rigid = name.startswith("Euler")
    return RigidTransform(affine.matrix, affine.translation) if rigid else affine


def _coefficient_images(part: BSplineTransform) -> list[sitk.Image]:
    images = [
        sitk.GetImageFromArray(np.ascontiguousarray(values))
        for values in np.moveaxis(part.coefficients_mm, -1, 0)
    ]
    for image in images:
        set_grid(image, part.grid)
    return images


def from_sitk_transform(transform: sitk.Transform) -> Transform:
    """Any SimpleITK transform as ours: linear ones become affine, composites are flattened."""
    parts = [_part_from_sitk(leaf) for leaf in leaves(transform)]
    return composed(parts)


def leaves(transform: sitk.Transform) -> Iterator[sitk.Transform]:
    """The transforms that a composite is made of, in its order (io-internal)."""
    transform = transform.Downcast()
    if not isinstance(transform, sitk.CompositeTransform):
        yield transform
        return
    for number in range(transform.GetNumberOfTransforms()):
        yield from leaves(transform.GetNthTransform(number))


def _part_from_sitk(transform: sitk.Transform) -> Transform:
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return field_from_sitk(transform.GetDisplacementField())
    if isinstance(transform, sitk.BSplineTransform) and transform.GetOrder() == CUBIC:
        images = transform.GetCoefficientImages()
        values = np.stack([sitk.GetArrayFromImage(image) for image in images], axis=-1)
        return BSplineTransform(grid_of(images[0]), values)
    if transform.IsLinear():
        return _affine_from_sitk(transform)
    raise InputError(f"transforms of type {transform.GetName()} can't be used")


def _affine_from_sitk(transform: sitk.Transform) -> AffineTransform:
    """Exact for every linear type, whatever its parameters and centre mean."""
    dimension = transform.GetDimension()
    start = np.array(transform.TransformPoint([0.0] * dimension))
    if not np.abs(start).max() < FARTHEST_MM:
        raise InputError(f"an affine that moves points by {np.abs(start).max():.3g} mm")
    columns = [np.array(transform.TransformPoint(e.tolist())) - start for e in np.eye(dimension)]
    return AffineTransform(np.column_stack(columns), start)

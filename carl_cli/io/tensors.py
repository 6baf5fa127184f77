"""Diffusion tensors onto other grids: means of their logarithms, turned with the tissue.

A tensor is six numbers (xx, xy, yy, xz, yz, zz), NIfTI's order, along the index axes of its image,
as ANTs has it. Arrays (…, 3, 3) hold whole matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import UsageError
from carl_cli.geometry import Array, Grid
from carl_cli.io.images.image import Image
from carl_cli.io.resample import interpolator_name, resample
from carl_cli.transforms import Transform
from carl_cli.transforms.interpolation import Floats
from carl_cli.transforms.jacobian import jacobian_matrix
from carl_cli.transforms.matrices import adjugate
from carl_cli.transforms.sampling import slabs

Reorientation = Literal["ppd", "finite-strain", "none"]
Mask = NDArray[np.bool_]
ROWS, COLUMNS = (0, 0, 1, 0, 1, 2), (0, 1, 1, 2, 2, 2)
"""Where the six numbers stand in a matrix."""
PLACES = (0, 1, 3, 1, 2, 4, 3, 4, 5)
"""Which of the six numbers stands at each place of a matrix, row by row."""
FLATTEST = 1e-3
"""Of the largest eigenvalue: noise makes smaller and negative ones, which have no logarithm."""
MOSTLY = 0.5
"""Of the weights of interpolation, on voxels that hold a tensor."""


def resample_tensors(
    image: Image,
    grid: Grid,
    transform: Transform | None = None,
    *,
    reorientation: Reorientation = "ppd",
    interpolator: str = "linear",
    background: float = 0.0,
) -> Image:
    """Tensors (z, y, x, 6) at the transformed points of `grid`, along the index axes of `grid`.

    transform maps points of `grid` (fixed, LPS mm) to points of `image` (moving); None is the
    identity. reorientation: "ppd" keeps principal directions on the tissue, "finite-strain" turns
    by the rotation nearest to the local map, "none" keeps directions in space. background: mean
    diffusivity, in the image's unit, where there is no tensor. float32, or float64 as the image.
    Raises UsageError for an interpolator other than linear and nearest.
    """
    if interpolator_name(interpolator) not in ("linear", "nearest"):
        raise UsageError(f"tensors can't be interpolated by {interpolator}", "use linear, nearest")
    logs, held = _interpolated(_logarithms(image), grid, transform, interpolator)
    result = np.empty((*grid.shape_zyx, 6), np.float64 if _is_double(image) else np.float32)
    for part in slabs(grid):
        tensors = _to_space(_of_eigenvalues(_matrices(logs[part]), np.exp), image.grid)
        if transform is not None and reorientation != "none":
            tensors = TURNED[reorientation](
                tensors, adjugate(jacobian_matrix(transform, grid, part))
            )
        result[part] = _numbers(_to_axes(tensors, grid))
        result[part][~held[part]] = _numbers(background * np.eye(3))
    return replace(image, array=result, grid=grid)


def _is_double(image: Image) -> bool:
    return image.array.dtype == np.float64


def _matrices(numbers: Floats) -> Array:
    return numbers[..., PLACES].reshape(*numbers.shape[:-1], 3, 3).astype(float)


def _numbers(tensors: Array) -> Array:
    return tensors[..., ROWS, COLUMNS]


def _of_eigenvalues(tensors: Array, function: Callable[[Array], Array]) -> Array:
    values, vectors = np.linalg.eigh(tensors)
    return np.asarray((vectors * function(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def _logarithms(image: Image) -> Image:
    """Seven channels: logarithms of the tensors, and 1 where there is one, else zeros."""
    found = np.zeros((*image.array.shape[:-1], 7), np.float64 if _is_double(image) else np.float32)
    for part in slabs(image.grid):
        numbers = np.nan_to_num(image.array[part].astype(float), posinf=0, neginf=0)
        there = numbers[..., (0, 2, 5)].sum(axis=-1) > 0
        logs = _of_eigenvalues(_matrices(numbers[there]), _safe_logarithm)
        found[part][there] = np.concatenate([_numbers(logs), np.ones((len(logs), 1))], axis=-1)
    return replace(image, array=found, channels=7)


def _safe_logarithm(values: Array) -> Array:
    return np.log(np.maximum(values, FLATTEST * np.abs(values).max(axis=-1, keepdims=True)))


def _interpolated(
    logs: Image, grid: Grid, transform: Transform | None, interpolator: str
) -> tuple[Floats, Mask]:
    """(z, y, x, 6) means over the voxels that hold a tensor, and where these are most."""
    resampled = resample(logs, grid, transform, interpolator=interpolator)
    made: Floats = resampled.array.astype(logs.array.dtype, copy=False)
    weight = made[..., 6:]
    held = weight >= MOSTLY
    return np.where(held, made[..., :6], 0) / np.where(held, weight, 1), held[..., 0]


def _to_space(tensors: Array, grid: Grid) -> Array:
    """From the index axes to LPS."""
    return np.asarray(grid.direction_matrix @ tensors @ grid.direction_matrix.T)


def _to_axes(tensors: Array, grid: Grid) -> Array:
    return np.asarray(grid.direction_matrix.T @ tensors @ grid.direction_matrix)


def _by_finite_strain(tensors: Array, back: Array) -> Array:
    """back: (…, 3, 3), how moving directions become fixed ones, up to a factor of each."""
    left, _, right = np.linalg.svd(back)
    rotation = left @ right
    return np.asarray(rotation @ tensors @ np.swapaxes(rotation, -1, -2))


def _by_principal_directions(tensors: Array, back: Array) -> Array:
    """The first eigenvector goes with the tissue, the second stays as near as it can."""
    values, vectors = np.linalg.eigh(tensors)
    carried = back @ vectors[..., ::-1]
    first = _unit(carried[..., 0])
    second = carried[..., 1]
    second = _unit(second - (second * first).sum(axis=-1, keepdims=True) * first)
    turned = np.stack([first, second, np.cross(first, second)], axis=-1)
    return np.asarray((turned * values[..., None, ::-1]) @ np.swapaxes(turned, -1, -2))


def _unit(vectors: Array) -> Array:
    """Zero where there is no direction: a map that folds up has none."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1))


TURNED: dict[str, Callable[[Array, Array], Array]] = {
    "ppd": _by_principal_directions,
    "finite-strain": _by_finite_strain,
}

"""Labels by linear vote: the label with the largest share of the linear weights wins.

The same result as ITK's LabelImageGenericInterpolateImageFunction with linear weights (ANTs'
GenericLabel), but the cost does not grow with the number of labels and no label becomes a
floating point number.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.volume import Image
from carl_cli.transforms.sampling import slab_grid, slabs

Labels = NDArray[np.generic]
TIE = 1e-9


def vote(image: Image, grid: Grid, transform: sitk.Transform, background: float) -> Labels:
    """Labels of `image` at the transformed points of `grid`: (z, y, x), the image's dtype.

    Equal shares go to the smallest label, as in ITK. Outside the image: `background`.
    """
    result = np.empty(grid.shape_zyx, image.array.dtype)
    for rows in slabs(grid):
        part = slab_grid(grid, rows)
        index = _mapped_index(part, transform, image.grid).reshape(-1, grid.dimension)
        result[rows] = _vote_at(image, index, background).reshape(part.shape_zyx)
    return result


def _mapped_index(grid: Grid, transform: sitk.Transform, moving: Grid) -> Array:
    """(z, y, x, D) continuous index (x first) in the moving image of each mapped voxel."""
    displacement = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        grid.size_xyz,
        grid.origin_mm,
        grid.spacing_mm,
        grid.direction,
    )
    points = grid.points_mm()
    points += sitk.GetArrayViewFromImage(displacement)
    return apply_affine(moving.lps_to_index, points)


def _vote_at(image: Image, index: Array, background: float) -> Labels:
    """(N, D) continuous indices → (N,) labels."""
    size = np.array(image.grid.size_xyz)
    inside = np.all((index >= -0.5) & (index < size - 0.5), axis=1)
    result = np.full(len(index), np.asarray(background).astype(image.array.dtype))
    index = np.clip(index[inside], 0, size - 1)
    base = np.minimum(np.floor(index).astype(np.intp), np.maximum(size - 2, 0))
    labels = _corner_labels(image.array, base)
    chosen = labels[0].copy()
    mixed = np.flatnonzero((labels[1:] != chosen).any(axis=0))
    chosen[mixed] = _winners(labels[:, mixed], index[mixed] - base[mixed])
    result[inside] = chosen
    return result


def _corners(dimension: int) -> Iterator[tuple[int, ...]]:
    return product((0, 1), repeat=dimension)


def _corner_labels(array: Labels, base: NDArray[np.intp]) -> Labels:
    """(corners, N) labels around base (N, D); an axis of one voxel has one corner, twice."""
    size = np.array(array.shape[::-1])
    strides = np.cumprod([1, *size[:-1]])
    steps = np.where(size > 1, strides, 0)
    flat, start = np.ascontiguousarray(array).ravel(), base @ strides
    return np.stack([flat.take(start + np.dot(c, steps)) for c in _corners(len(size))])


def _winners(labels: Labels, fraction: Array) -> Labels:
    """(corners, N) labels and (N, D) fractions → (N,) label of the largest share."""
    weights = np.stack(
        [
            np.where(np.array(corner, bool), fraction, 1 - fraction).prod(axis=1)
            for corner in _corners(fraction.shape[1])
        ]
    )
    shares = np.stack([(weights * (labels == one)).sum(axis=0) for one in labels])
    highest = shares.max(axis=0)
    winner: Labels = np.where(shares > highest - TIE, labels, labels.max(axis=0)).min(axis=0)
    return winner

"""Values of an image at mapped points by weights around them: of the label with the largest share,
or their mean.

linear_vote is ITK's LabelImageGenericInterpolateImageFunction with linear weights (ANTs'
GenericLabel), but the cost does not grow with the number of labels and no label becomes a floating
point number. gaussian_vote is its LabelImageGaussianInterpolateImageFunction (ANTs' MultiLabel) and
gaussian_mean its GaussianInterpolateImageFunction: a voxel's weight is the Gaussian's integral over
it, and voxels count up to alpha sigmas away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.images.image import Image
from carl_cli.transforms.sampling import slab_grid, slabs

Labels = NDArray[np.generic]
TIE = 1e-9
AT_ONCE = 2**22
MOST_LABELS = 2**16
_erf = np.frompyfunc(math.erf, 1, 1)


@dataclass(frozen=True)
class Kernel:
    """A Gaussian: sigma in voxels along x, y, z, and how many sigmas it reaches."""

    sigma_voxels: Array
    alpha: float


def linear_vote(image: Image, grid: Grid, transform: sitk.Transform, background: float) -> Labels:
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


def gaussian_mean(
    image: Image, grid: Grid, transform: sitk.Transform, background: float, kernel: Kernel
) -> Array:
    """(z, y, x) weighted means at the transformed points of `grid`; outside: `background`."""
    result = np.full(grid.shape_zyx, float(background))
    flat = np.ascontiguousarray(image.array).ravel()
    for rows, where, index in _inside(image, grid, transform):
        for part in _chunks(len(index), image, kernel):
            weights, voxels = _weights(index[part], image.grid, kernel)
            means = (weights * flat.take(voxels)).sum(axis=1) / weights.sum(axis=1)
            result[rows].reshape(-1)[where[part]] = means
    return result


def gaussian_vote(
    image: Image, grid: Grid, transform: sitk.Transform, background: float, kernel: Kernel
) -> Labels:
    """(z, y, x) labels at the transformed points of `grid`; outside: `background`."""
    values, codes = np.unique(image.array, return_inverse=True)
    if len(values) > MOST_LABELS:
        raise InputError(
            f"{len(values)} different values, at most {MOST_LABELS} labels were expected",
            "choose linear or bspline for grey values",
        )
    codes = codes.reshape(image.array.shape).astype(np.int32)
    mixed, flat = _mixed(codes, kernel), codes.ravel()
    result = np.full(grid.shape_zyx, np.asarray(background).astype(values.dtype))
    for rows, where, index in _inside(image, grid, transform):
        nearest = np.rint(index).astype(np.intp) @ _strides(image.grid)
        chosen = values[flat[nearest]]
        torn = np.flatnonzero(mixed.ravel()[nearest])
        for part in _chunks(len(torn), image, kernel):
            weights, voxels = _weights(index[torn[part]], image.grid, kernel)
            chosen[torn[part]] = values[_heaviest(flat.take(voxels), weights)]
        result[rows].reshape(-1)[where] = chosen
    return result


def _inside(
    image: Image, grid: Grid, transform: sitk.Transform
) -> Iterator[tuple[slice, NDArray[np.intp], Array]]:
    """Of each slab: its rows, which of its voxels lie in the image, their continuous indices."""
    size = np.array(image.grid.size_xyz)
    for rows in slabs(grid):
        index = _mapped_index(slab_grid(grid, rows), transform, image.grid)
        index = index.reshape(-1, grid.dimension)
        where = np.flatnonzero(np.all((index >= -0.5) & (index < size - 0.5), axis=1))
        yield rows, where, np.clip(index[where], -0.5, size - 0.5 - TIE)


def _strides(grid: Grid) -> NDArray[np.intp]:
    return np.cumprod([1, *grid.size_xyz[:-1]]).astype(np.intp)


def _reach(kernel: Kernel) -> NDArray[np.intp]:
    """Voxels along each axis that may count for one point."""
    return (np.ceil(2 * kernel.alpha * kernel.sigma_voxels) + 1).astype(np.intp)


def _chunks(count: int, image: Image, kernel: Kernel) -> Iterator[slice]:
    step = max(1, AT_ONCE // int(np.minimum(_reach(kernel), image.grid.size_xyz).prod()))
    return (slice(start, start + step) for start in range(0, count, step))


def _weights(index: Array, grid: Grid, kernel: Kernel) -> tuple[Array, NDArray[np.intp]]:
    """(N, voxels) weights around each point (N, D), and which voxels of the flat image they are."""
    weights, voxels = np.ones((len(index), 1)), np.zeros((len(index), 1), np.intp)
    for axis, stride in enumerate(_strides(grid)):
        along, places = _weights_along(index[:, axis], grid.size_xyz[axis], kernel, axis)
        weights = (weights[:, None, :] * along[:, :, None]).reshape(len(index), -1)
        voxels = (voxels[:, None, :] + stride * places[:, :, None]).reshape(len(index), -1)
    return weights, voxels


def _weights_along(
    index: Array, size: int, kernel: Kernel, axis: int
) -> tuple[Array, NDArray[np.intp]]:
    """Integrals of the Gaussian over the voxels that it reaches; 0 for those that it doesn't."""
    sigma = kernel.sigma_voxels[axis]
    first = np.maximum(np.floor(index + 0.5 - kernel.alpha * sigma), 0)
    last = np.minimum(np.ceil(index + 0.5 + kernel.alpha * sigma), size)
    places = first[:, None] + np.arange(min(size, int(_reach(kernel)[axis])))
    borders = np.concatenate([places, places[:, -1:] + 1], axis=1) - 0.5 - index[:, None]
    integrals = np.diff(_erf(borders / (math.sqrt(2) * sigma)).astype(float), axis=1)
    counted = places < last[:, None]
    return np.where(counted, integrals, 0), np.where(counted, places, 0).astype(np.intp)


def _heaviest(codes: NDArray[np.int32], weights: Array) -> NDArray[np.int32]:
    """(N, voxels) labels and weights → (N,) label of the largest share."""
    present, local = np.unique(codes, return_inverse=True)
    rows = np.arange(len(codes))[:, None] * len(present)
    bins = (rows + local.reshape(codes.shape)).ravel()
    shares = np.bincount(bins, weights.ravel(), len(codes) * len(present))
    winner: NDArray[np.int32] = present[shares.reshape(len(codes), -1).argmax(axis=1)]
    return winner


def _mixed(codes: NDArray[np.int32], kernel: Kernel) -> NDArray[np.bool_]:
    """Where a point may see more than one label."""
    held = sitk.GetImageFromArray(codes)
    radius = [int(n) for n in _reach(kernel) // 2 + 1]
    low, high = (
        sitk.GrayscaleErode(held, radius, sitk.sitkBox),
        sitk.GrayscaleDilate(held, radius, sitk.sitkBox),
    )
    return np.asarray(sitk.GetArrayViewFromImage(low) != sitk.GetArrayViewFromImage(high))

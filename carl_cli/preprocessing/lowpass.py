"""Low-pass before sampling more coarsely: halvings and short Gaussians, alike in both directions.

Written in numpy because recursive filters are slow here and poor below one voxel. Every step
is symmetric, so that an image stored back to front gives the same values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.image import Image

Float32 = NDArray[np.float32]
Values = NDArray[Any]

VARIANCE_PER_WIDTH = 1 / (8 * np.log(2))  # of a Gaussian, by its squared width at half height
HALVE_FROM = 3.0  # times the source's spacing: from here a Gaussian alone would be long
NEGLIGIBLE_VARIANCE = 0.01  # voxels²: a neighbour would weigh half a percent


def low_pass(image: Image, spacing_mm: tuple[float, ...], halve_from: float = HALVE_FROM) -> Image:
    """Smooth so that samples spacing_mm apart (per index axis, x first) represent the image.

    A Gaussian with FWHM² = target² - source², so that the two widths add up to the target's
    (Cardoso et al., Scale factor point spread function matching, MICCAI 2015). The result may
    have fewer voxels, over the same extent: axes that the target is halve_from times coarser
    than are halved first.
    """
    source_mm, spent = image.grid.spacing_mm, np.zeros(len(spacing_mm))
    for axis, target in enumerate(spacing_mm):
        while target >= halve_from * image.grid.spacing_mm[axis]:
            image, variance_mm2 = halved(image, axis)
            spent[axis] += variance_mm2
    wanted = (np.square(spacing_mm) - np.square(source_mm)) * VARIANCE_PER_WIDTH
    variances = (wanted - spent) / np.square(image.grid.spacing_mm)
    return replace(image, array=gaussian(image.array, tuple(variances[::-1])))


def halved(image: Image, axis_xyz: int) -> tuple[Image, float]:
    """Half as many voxels along one axis over the same extent; the low-pass's variance in mm²."""
    grid, axis = image.grid, image.array.ndim - 1 - axis_xyz
    variance = 1.0 if grid.size_xyz[axis_xyz] % 2 else 0.75
    small = Image(halve(image.array, axis), halved_grid(grid, axis_xyz), source=image.source)
    return small, variance * grid.spacing_mm[axis_xyz] ** 2


def halved_grid(grid: Grid, axis_xyz: int) -> Grid:
    """Pairs of voxels where the size is even, every other voxel where it is odd."""
    size, spacing, first = list(grid.size_xyz), list(grid.spacing_mm), np.zeros(grid.dimension)
    first[axis_xyz] = 0.0 if size[axis_xyz] % 2 else 0.5
    size[axis_xyz] = (size[axis_xyz] + 1) // 2
    spacing[axis_xyz] *= 2
    origin = tuple(float(v) for v in apply_affine(grid.index_to_lps, first))
    return replace(grid, size_xyz=tuple(size), spacing_mm=tuple(spacing), origin_mm=origin)


def halve(array: Values, axis: int) -> Float32:
    """Binomial low-pass and every other value; an even size keeps its middle between voxels."""
    taps = (1, 4, 6, 4, 1) if array.shape[axis] % 2 else (1, 3, 3, 1)
    reach = (len(taps) - 1) // 2
    width = [(reach, reach) if k == axis else (0, 0) for k in range(array.ndim)]
    lines = np.moveaxis(np.pad(array, width, mode="edge"), axis, 0)
    size = (array.shape[axis] + 1) // 2
    result = np.zeros((size, *lines.shape[1:]), np.float32)
    for k, tap in enumerate(taps):
        result += np.float32(tap / sum(taps)) * lines[k : k + 2 * size - 1 : 2]
    return np.moveaxis(result, 0, axis)


def gaussian(array: Values, variances: tuple[float, ...]) -> Float32:
    """Discrete Gaussian per array axis, variance in voxels²; border values continue."""
    for axis, variance in enumerate(variances):
        if variance > NEGLIGIBLE_VARIANCE:
            array = _convolved(array, axis, _taps(variance))
    return array


def _taps(variance: float) -> Float32:
    """Weights at 0, ±1, ±2 … up to 3 sigma and one more, of Lindeberg's discrete Gaussian.

    Its transform is exp(variance·(cos θ - 1)); unlike samples of the continuous one it keeps
    the variance below one voxel too.
    """
    reach = int(np.ceil(3 * np.sqrt(variance))) + 1
    frequency = 2 * np.pi * np.fft.rfftfreq(8 * reach + 32)
    taps = np.fft.irfft(np.exp(variance * (np.cos(frequency) - 1)))[: reach + 1]
    normalised: Float32 = (taps / (2 * taps.sum() - taps[0])).astype(np.float32)
    return normalised


def _convolved(array: Float32, axis: int, taps: Float32) -> Float32:
    """Slab by slab, so that each pass finds its values in the cache."""
    result = np.empty(array.shape, np.float32)
    across = 0 if axis else 1
    slabs = max(1, array.nbytes // 2**20)
    for part in np.array_split(np.arange(array.shape[across]), min(slabs, array.shape[across])):
        slab = (slice(None),) * across + (slice(part[0], part[-1] + 1),)
        _convolve(array[slab], result[slab], axis, taps)
    return result


def _convolve(array: Float32, result: Float32, axis: int, taps: Float32) -> None:
    reach = len(taps) - 1
    width = [(reach, reach) if k == axis else (0, 0) for k in range(array.ndim)]
    padded, size = np.pad(array, width, mode="edge"), array.shape[axis]
    before = (slice(None),) * axis
    np.multiply(array, taps[0], out=result)
    both = np.empty(result.shape, np.float32)
    for k in range(1, reach + 1):
        left = padded[(*before, slice(reach - k, reach - k + size))]
        right = padded[(*before, slice(reach + k, reach + k + size))]
        np.add(left, right, out=both)
        both *= taps[k]
        result += both

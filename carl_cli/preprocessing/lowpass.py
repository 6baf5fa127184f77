"""Low-pass before sampling more coarsely: halvings and short Gaussians, alike in both directions.

Written in numpy because recursive filters are slow here and poor below one voxel, and because
this room loads no torch. Every step is symmetric, so that an image stored back to front gives the
same values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image
from carl_cli.preprocessing import grids

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


log = logging.getLogger(__name__)

LARGE_VOXELS = 2**25  # a float32 copy of 128 MiB; larger images are halved first

Convert = Callable[[NDArray[np.generic]], NDArray[np.float32]]


def as_float(image: Image, window: tuple[float, float] | None, may_reduce: bool) -> Image:
    """float32 copy in the centred frame; NaN and infinite voxels become background.

    window clips (before any averaging, so that metal and padding don't bleed into tissue).
    may_reduce: images beyond LARGE_VOXELS are halved along their finest axes.
    """
    background = _background(image, window)

    def convert(slab: NDArray[np.generic]) -> NDArray[np.float32]:
        values = slab.astype(np.float32)
        if background is not None:
            values[~np.isfinite(values)] = background
        return values if window is None else np.clip(values, *window, out=values)

    grid = grids.centred(image.grid)
    if may_reduce and image.array.size > LARGE_VOXELS:
        return _reduced(replace(image, grid=grid), convert)
    return Image(convert(image.array), grid, source=image.source)


def _reduced(image: Image, convert: Convert) -> Image:
    """Halve the finest axes until LARGE_VOXELS hold the image; in-plane axes plane by plane."""
    axes = _axes_to_halve(image.grid)
    depth = image.grid.dimension - 1
    in_plane = [a for a in axes if a != depth]
    planes = [_halve_plane(convert(plane), in_plane) for plane in image.array]
    grid = image.grid
    for axis in in_plane:
        grid = halved_grid(grid, axis)
    result = Image(np.stack(planes), grid, source=image.source)
    for axis in axes[len(in_plane) :]:
        result, _ = halved(result, axis)
    return result


def _halve_plane(plane: NDArray[np.float32], axes_xyz: list[int]) -> NDArray[np.float32]:
    for axis in axes_xyz:
        plane = halve(plane, plane.ndim - 1 - axis)
    return plane


def _axes_to_halve(grid: Grid) -> list[int]:
    """Index axes (x is 0), the finest first; those within a plane before the last one."""
    depth, axes = grid.dimension - 1, []
    while np.prod(grid.size_xyz, dtype=float) > LARGE_VOXELS:
        axes.append(int(np.argmin(grid.spacing_mm)))
        grid = halved_grid(grid, axes[-1])
    return sorted(axes, key=lambda axis: axis == depth)


def _background(image: Image, window: tuple[float, float] | None) -> float | None:
    """What replaces voxels that aren't finite; None where all are."""
    if not np.issubdtype(image.array.dtype, np.floating):
        return None
    good = np.isfinite(image.array)
    count = image.array.size - int(np.count_nonzero(good))
    if not count:
        return None
    if not good.any():
        raise InputError(f"{image.source or 'image'}: no voxel holds a finite number")
    name = image.source or "image"
    log.warning("%s: %d voxels are NaN or infinite, taken as background", name, count)
    return window[0] if window else float(image.array.min(where=good, initial=np.inf))


def without_uniform_borders(image: Image, more: int) -> Image:
    """Cut border slices that hold one value only, and `more` slices on each side.

    The black bars around a scan, as uniCARL removes them. Raises InputError when nothing is left.
    """
    spans = [_varying(image.array, axis) for axis in reversed(range(image.array.ndim))]
    start = np.array([a + more for a, _ in spans])
    size = np.array([b - more for _, b in spans]) - start
    if np.any(size < 1):
        raise InputError(f"{image.source or 'image'}: nothing is left inside its uniform borders")
    return grids.crop_image(image, start, size)


def _varying(array: NDArray[Any], axis: int) -> tuple[int, int]:
    """First and one past the last slice along an axis that holds more than one value."""
    others = tuple(k for k in range(array.ndim) if k != axis)
    hits = np.flatnonzero(array.max(axis=others) > array.min(axis=others))
    return (int(hits[0]), int(hits[-1]) + 1) if len(hits) else (0, 0)

"""Stored voxels → float32 in the centred frame, without a second full copy of large images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.image import Image
from carl_cli.preprocessing import grids
from carl_cli.preprocessing.lowpass import halve, halved, halved_grid

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

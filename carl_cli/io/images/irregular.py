"""Volumes whose voxels fill no orthogonal grid: a tilted gantry, uneven slices, a sheared header.

They are resampled onto the nearest grid that is one, linearly, as dcm2niix does it; what looks like
labels, by the nearest voxel.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.images.image import Image, looks_like_labels, one_volume

Voxels = NDArray[np.generic]
NEARLY = 1e-3  # of a voxel, lost in a header's rounding

log = logging.getLogger(__name__)


def warn(path: Path, found: str, strict: bool) -> None:
    """Say that the image is resampled; with `strict` InputError instead."""
    if strict:
        raise InputError(f"{path}: {found}", "resample it onto an orthogonal grid first")
    log.warning("%s: %s; it was resampled onto an orthogonal grid", path, found)


def straight_grid(size_xyz: tuple[int, ...], affine: Array) -> Grid:
    """Over all voxel centres of a sheared 3D volume; affine: (4, 4) index → LPS mm.

    The first axis keeps its direction, the first two their plane, so that slices stay slices.
    """
    axes, third = affine[:3, :3], np.cross(affine[:3, 0], affine[:3, 1])
    first = axes[:, 0] / np.linalg.norm(axes[:, 0])
    third = third / np.linalg.norm(third)
    second = np.cross(third, first)
    third = third * np.sign(third @ axes[:, 2])
    turn = np.column_stack([first, second, third])
    spacing = np.abs(np.diag(turn.T @ axes))
    index = np.stack(np.meshgrid(*([0, n - 1] for n in size_xyz), indexing="ij"), axis=-1)
    corners = apply_affine(affine, index.reshape(-1, 3)) @ turn
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.ceil((high - low) / spacing - NEARLY).astype(int) + 1
    origin = turn @ low
    return Grid(
        tuple(size.tolist()),
        tuple(spacing.tolist()),
        tuple(origin.tolist()),
        tuple(turn.ravel().tolist()),
    )


def straightened(
    array: Voxels, affine: Array, grid: Grid, interpolator: int = sitk.sitkLinear
) -> Voxels:
    """(z, y, x) voxels at affine's positions → on `grid`; outside, the smallest value."""
    to_index = np.linalg.inv(affine)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_index[:3, :3].ravel().tolist())
    transform.SetTranslation(to_index[:3, 3].tolist())
    geometry = (grid.size_xyz, transform, interpolator, grid.origin_mm, grid.spacing_mm)
    moving = sitk.GetImageFromArray(array)
    outside = float(np.min(array))
    made = sitk.Resample(moving, *geometry, grid.direction, outside, sitk.sitkFloat64)
    return _as(sitk.GetArrayViewFromImage(made), array.dtype)


def unit_grid(size_xyz: tuple[int, ...]) -> Grid:
    """Voxel indices taken for mm."""
    return Grid(tuple(size_xyz), (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))


def straightened_image(image: Image, affine: Array) -> Image:
    """An image on its `unit_grid`, all its channels, from affine's positions to `straight_grid`."""
    grid = straight_grid(image.grid.size_xyz, affine)
    planes = [one_volume(image, channel).array for channel in range(image.channels)]
    interpolator = sitk.sitkNearestNeighbor if looks_like_labels(image) else sitk.sitkLinear
    made = [straightened(plane, affine, grid, interpolator) for plane in planes]
    return replace(image, array=made[0] if len(made) == 1 else np.stack(made, axis=-1), grid=grid)


def evened(array: Voxels, along_mm: Array, count: int) -> Voxels:
    """(slices, y, x) at increasing places → `count` slices evenly from the first to the last."""
    places = np.linspace(along_mm[0], along_mm[-1], count)
    above = np.clip(np.searchsorted(along_mm, places), 1, len(along_mm) - 1)
    low, high = along_mm[above - 1], along_mm[above]
    share = ((places - low) / (high - low))[:, None, None]
    low_share, values = 1 - share, array.astype(float)
    return _as(values[above - 1] * low_share + values[above] * share, array.dtype)


def _as(values: Voxels, dtype: np.dtype[np.generic]) -> Voxels:
    rounded = np.rint(values) if dtype.kind in "iu" else values
    return rounded.astype(dtype)

"""Shapes of binary arrays, by SimpleITK: connected parts, borders and distances."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray


def large_components(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """The connected parts that hold at least `least` times the voxels of the largest one."""
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)))
    labels = sitk.GetArrayViewFromImage(parts)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    result: NDArray[np.bool_] = np.isin(labels, np.flatnonzero(sizes >= least * sizes.max()))
    return result & mask


def dilated(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its direct neighbours, diagonal ones too."""
    for axis in range(mask.ndim):
        lines = np.moveaxis(mask, axis, 0)
        grown = lines.copy()
        grown[1:] |= lines[:-1]
        grown[:-1] |= lines[1:]
        mask = np.moveaxis(grown, 0, axis)
    return mask


def border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask with a face towards its outside; beyond the array is outside."""
    padded = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
    core = sitk.BinaryErode(padded, [1] * mask.ndim, sitk.sitkCross, 0.0, 1.0, False)
    inner = sitk.GetArrayViewFromImage(core)[(slice(1, -1),) * mask.ndim]
    result: NDArray[np.bool_] = mask & (inner == 0)
    return result


def distance_to(mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.float32]:
    """Distance in mm from each voxel centre to the nearest one of the mask; spacing x first."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing_mm)
    signed = sitk.SignedMaurerDistanceMap(image, False, False, True)
    distance: NDArray[np.float32] = np.maximum(sitk.GetArrayViewFromImage(signed), 0)
    return distance

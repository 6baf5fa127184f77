"""What a mask leaves out of an image, continued smoothly from what surrounds it.

So a network, and windows that reach beyond the mask, see nothing of a lesion and no edge where
it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carl_cli.preprocessing.lowpass import Float32, halve

Mask = NDArray[np.bool_]


def filled(array: Float32, mask: Mask | None) -> Float32:
    """The array, (z, y, x) or (y, x), with other values where the mask is False: means of the
    nearest ones inside it, wider the further away they are (push and pull; Gortler et al. 1996).

    mask: of the array's shape, True somewhere; None leaves nothing out.
    """
    if mask is None or mask.all():
        return array
    known = mask.astype(np.float32)
    return np.where(mask, array, _continued(array * known, known))


def _continued(sums: Float32, weights: Float32) -> Float32:
    """Means where there are weights, and those of half the resolution where there are none."""
    means = sums / np.where(weights > 0, weights, 1)
    if (weights > 0).all():
        return means
    coarse_sums, coarse_weights = sums, weights
    for axis in range(sums.ndim):
        coarse_sums, coarse_weights = halve(coarse_sums, axis), halve(coarse_weights, axis)
    coarse = _continued(coarse_sums, coarse_weights)
    for axis, size in enumerate(sums.shape):
        coarse = _doubled(coarse, axis, size)
    return np.where(weights > 0, means, coarse)


def _doubled(array: Float32, axis: int, size: int) -> Float32:
    """Linear interpolation at the places of the voxels before `halve`."""
    place = (np.arange(size) - (0.0 if size % 2 else 0.5)) / 2
    place = np.clip(place, 0, array.shape[axis] - 1).astype(np.float32)
    lines = np.moveaxis(array, axis, -1)
    low = place.astype(int)
    high = np.minimum(low + 1, array.shape[axis] - 1)
    return np.moveaxis(
        lines[..., low] + (place - low) * (lines[..., high] - lines[..., low]), -1, axis
    ).astype(np.float32)

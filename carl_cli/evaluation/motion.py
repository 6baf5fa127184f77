"""How a series moved: the numbers of each volume, and how steady its voxels are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Array
from carl_cli.transforms import AffineTransform
from carl_cli.transforms.linear import SimilarityTransform

RADIUS_MM = 50.0
"""Of the sphere on which rotations become millimetres: Power et al., NeuroImage 59, 2012."""


def motion_numbers(transform: AffineTransform, centre_mm: Array) -> tuple[Array, Array]:
    """Of a map in LPS mm: the shift (3,) in mm of the point `centre_mm`, and angles (3,), degrees.

    Angles are about x, y, z as in ITK's Euler3DTransform (z after x after y); of an affine
    transform, those of the nearest rotation.
    """
    shift = transform(centre_mm) - centre_mm
    r = SimilarityTransform(transform.matrix, transform.translation).rotation
    angles = np.arcsin(r[2, 1]), np.arctan2(-r[2, 0], r[2, 2]), np.arctan2(-r[0, 1], r[1, 1])
    return shift, np.degrees(angles)


def framewise_displacement_mm(shifts_mm: Array, angles: Array) -> Array:
    """(N,) from each volume to the next, 0 for the first; shifts and angles (N, 3), degrees."""
    steps = np.abs(np.diff(shifts_mm, axis=0)).sum(1)
    turns = np.abs(np.diff(np.radians(angles), axis=0)).sum(1)
    return np.concatenate([[0.0], steps + RADIUS_MM * turns])


def motion_table(motion: Sequence[AffineTransform], centre_mm: Array) -> list[dict[str, Any]]:
    """A row for each volume; see `motion_numbers` and `framewise_displacement_mm`."""
    numbers = [motion_numbers(transform, centre_mm) for transform in motion]
    shifts, angles = map(np.array, zip(*numbers, strict=True))
    names = [f"translation_{axis}_mm" for axis in "xyz"]
    names += [f"rotation_{axis}_degrees" for axis in "xyz"]
    values = np.hstack([shifts, angles, framewise_displacement_mm(shifts, angles)[:, None]])
    names.append("framewise_displacement_mm")
    rows = (zip(names, row.round(6).tolist(), strict=True) for row in values)
    return [{"volume": k, **dict(row)} for k, row in enumerate(rows)]


class Steadiness:
    """Mean and spread of voxels through time, a volume at a time (Welford 1962)."""

    def __init__(self, inside: NDArray[np.bool_]) -> None:
        self.inside, self.count = inside, 0
        self.mean = np.zeros(np.count_nonzero(inside))
        self.squares = np.zeros_like(self.mean)

    def add(self, volume: NDArray[Any]) -> None:
        values = volume[self.inside].astype(float)
        self.count += 1
        gap = values - self.mean
        self.mean += gap / self.count
        self.squares += gap * (values - self.mean)

    @property
    def tsnr(self) -> float | None:
        """Median over voxels of |mean| / SD (N - 1); None where nothing varies."""
        spread = np.sqrt(self.squares / max(self.count - 1, 1))
        varies = spread > 0
        if not varies.any():
            return None
        return float(np.median(np.abs(self.mean[varies]) / spread[varies]))

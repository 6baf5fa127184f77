"""How large the images of a case and the network's grid are, from headers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from carl_cli.geometry import Grid
from carl_cli.preprocessing.rule import PreprocessRule, grid_shape

STORED_BYTES_PER_VOXEL = 4  # as an image is kept after reading; int16 needs less, float64 more


@dataclass(frozen=True)
class Sizes:
    """Voxels of the two images and of the network's grid."""

    fixed: int
    moving: int
    network_shape: tuple[int, ...]

    @classmethod
    def of(cls, fixed: Grid, moving: Grid, rule: PreprocessRule) -> Sizes:
        """The `physical` rule's grid holds a part of the images: at most all of both."""
        shape = rule.shape_zyx or _physical_shape(fixed, moving, rule)
        return cls(prod(fixed.size_xyz), prod(moving.size_xyz), shape)

    @property
    def images(self) -> int:
        return STORED_BYTES_PER_VOXEL * (self.fixed + self.moving)


def _physical_shape(fixed: Grid, moving: Grid, rule: PreprocessRule) -> tuple[int, ...]:
    extents = [np.ptp(grid.corners_mm(), axis=0) for grid in (fixed, moving)]
    finest = min(*fixed.spacing_mm, *moving.spacing_mm)
    size, _ = grid_shape(
        tuple(np.max(extents, axis=0)),
        rule.multiple_of,
        rule.max_voxels,
        max(finest, rule.min_spacing_mm),
    )
    return size[::-1]

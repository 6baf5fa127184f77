"""Sampling an image so that its end is no cliff."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.image import Image
from carl_cli.io.resample import resample
from carl_cli.transform import Transform


def sample_fading(
    image: Image, grid: Grid, transform: Transform | None = None, *, background: float = 0.0
) -> Image:
    """Linear samples; from its outermost voxel centres the image fades to the background.

    Within one voxel, so that a grid point may cross the border of the field of view by a hair
    without a jump from tissue to nothing.
    """
    first = apply_affine(image.grid.index_to_lps, -np.ones(image.grid.dimension))
    wider = replace(
        image.grid,
        size_xyz=tuple(n + 2 for n in image.grid.size_xyz),
        origin_mm=tuple(float(v) for v in first),
    )
    padded = np.pad(image.array, 1, constant_values=background)
    return resample(
        replace(image, array=padded, grid=wider), grid, transform, background=background
    )

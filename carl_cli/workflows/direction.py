"""Whether a transform goes the way that it is asked to, as far as its field tells."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.images.files import read_grid
from carl_cli.transforms import Deformation, Transform

log = logging.getLogger(__name__)

LITTLE_VOXELS = 0.5  # of the field


def check_direction(
    chains: Sequence[Transform], reference: Grid, source: Path, series_uid: str | None = None
) -> None:
    """Warn of a field that was found with the image to be resampled as the fixed one.

    chains: fixed → moving, LPS mm; none at all is told of too. A field covers all that its fixed
    image shows, and not much more. One that covers the source and not the reference was found with
    the two exchanged.
    """
    if not chains:
        log.info("no transform: the header of %s alone places it", source)
        return
    first = chains[0].parts[-1]
    if not isinstance(first, Deformation) or first.dimension != reference.dimension:
        return
    source_gap, reference_gap = (
        _beyond_voxels(first.sampling_grid, grid)
        for grid in (read_grid(source, series_uid=series_uid), reference)
    )
    covers = source_gap.max() <= LITTLE_VOXELS < reference_gap.max()
    if covers and np.abs(source_gap).max() < np.abs(reference_gap).max():
        log.warning(
            "this transform's fixed image seems to be %s, which is to be resampled here; "
            "exchange the two images, or take the inverse transform",
            source,
        )


def _beyond_voxels(field: Grid, image: Grid) -> Array:
    """(2, D) by how much the image reaches beyond the field along its axes, at both ends."""
    index = apply_affine(field.lps_to_index, image.corners_mm())
    last = np.array(field.size_xyz) - 0.5
    return np.stack([-0.5 - index.min(axis=0), index.max(axis=0) - last])

"""Which grids may be asked for: spacings of this world, as many voxels as memory holds."""

from __future__ import annotations

import math

from carl_cli.errors import OutOfMemoryError
from carl_cli.geometry import Grid
from carl_cli.system import MIB, main_memory

FINEST_MM, COARSEST_MM = 1e-3, 1e4
"""Of spacings: below a cell and above a body, they are slips."""
MOST_VOXELS = 10**6  # along an axis
VALUE_BYTES, VECTOR_BYTES = 8, 24
"""Of a voxel of a result: an image with its copy for the file, a displacement field with its own.
Peaks are higher; what exceeds these can't be done in any way."""


def check_fits(grid: Grid, bytes_per_voxel: int) -> None:
    """Raise OutOfMemoryError for a result on this grid that exceeds what the process may use."""
    allowed, needed = main_memory(), math.prod(grid.size_xyz) * bytes_per_voxel / MIB
    if allowed is not None and needed > allowed.mib:
        size = " x ".join(map(str, grid.size_xyz))
        raise OutOfMemoryError(
            f"a result of {size} voxels takes at least {needed / 1024:.4g} GiB, "
            f"{allowed.source} leaves {allowed.mib / 1024:.4g} GiB",
            "ask for a coarser grid",
        )

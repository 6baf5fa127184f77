"""Which grids may be asked for: spacings of this world, as many voxels as memory holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from carl_cli.errors import OutOfMemoryError, UsageError
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


def target_grid(
    frame: Path,
    spacing_mm: Sequence[float] | None = None,
    size_xyz: Sequence[int] | None = None,
    series_uid: str | None = None,
) -> Grid:
    """The grid of an image file; with another spacing or size, over the same field of view.

    One number stands for all axes. With both given, the middle of the field of view stays.
    Raises InputError, UsageError for numbers that are none of a grid, OutOfMemoryError.
    """
    from carl_cli.io.images.files import read_grid  # late: options know this module, in help too

    grid = read_grid(frame, series_uid=series_uid)
    extent = np.array(grid.size_xyz) * np.array(grid.spacing_mm)
    size = _per_axis(size_xyz, grid, "--size", 1, MOST_VOXELS)
    spacing = _per_axis(spacing_mm, grid, "--spacing", FINEST_MM, COARSEST_MM)
    if size is None and spacing is None:
        return grid
    if spacing is None:
        spacing = extent / size
    if size is None:
        size = np.array([max(1, math.ceil(n - 1e-6)) for n in extent / spacing])
    half_mm = grid.direction_matrix @ ((size - 1) / 2 * spacing)
    wanted = Grid(
        tuple(int(n) for n in size),
        tuple(map(float, spacing)),
        tuple(map(float, grid.centre_mm - half_mm)),
        grid.direction,
    )
    check_fits(wanted, VALUE_BYTES)
    return wanted


def _per_axis(
    numbers: Sequence[float] | None, grid: Grid, option: str, low: float, high: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    if numbers is None:
        return None
    if len(numbers) not in (1, grid.dimension) or not all(low <= n <= high for n in numbers):
        raise UsageError(
            f"{option} {','.join(f'{n:g}' for n in numbers)}",
            f"give 1 or {grid.dimension} numbers from {low:g} to {high:g}",
        )
    return np.broadcast_to(np.asarray(numbers, float), (grid.dimension,))

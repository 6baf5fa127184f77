"""Coarser grids over the same field of view."""

from __future__ import annotations

import numpy as np
import pytest

from carl_cli.geometry import Grid, apply_affine, block_grid


@pytest.mark.parametrize("spacing_mm", [0.7, 2.0, 5.3, 11.0, 500.0])
def test_a_block_grid_holds_the_image(any_grid: Grid, spacing_mm: float) -> None:
    """Every corner of the image inside, less than a block to spare, the same at both ends."""
    cover = block_grid(any_grid, spacing_mm)
    assert cover.spacing_mm == (spacing_mm,) * 3
    assert cover.direction == any_grid.direction
    np.testing.assert_allclose(cover.centre_mm, any_grid.centre_mm, atol=1e-9)
    corners = apply_affine(cover.lps_to_index, any_grid.corners_mm())
    low, high = corners.min(axis=0) + 0.5, np.array(cover.size_xyz) - 0.5 - corners.max(axis=0)
    assert np.all(low > -1e-5)
    assert np.all(low < 0.5 + 1e-9)
    np.testing.assert_allclose(low, high, atol=1e-9)


def test_the_same_spacing_is_the_same_grid() -> None:
    grid = Grid((10, 20, 30), (1.5, 1.5, 1.5), (3.0, -4.0, 5.0), tuple(np.eye(3).ravel()))
    assert block_grid(grid, 1.5).matches(grid)


def test_blocks_of_two_begin_half_a_voxel_in() -> None:
    """8 voxels of 1 mm become 4 of 2 mm: the first centre lies between the first two."""
    grid = Grid((8, 8), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    assert block_grid(grid, 2.0) == Grid((4, 4), (2.0, 2.0), (0.5, 0.5), grid.direction)

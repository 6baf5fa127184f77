"""Smoothing by confidence: what it must keep, and what it must mend."""

from __future__ import annotations

import torch
from torch import Tensor

from carl_cli.model.fields import identity, jacobian_determinant, voxels_per_unit
from carl_cli.model.smoothing import smooth_by_confidence, unfolded

SHAPE = (14, 12, 16)


def _positions() -> Tensor:
    axes = [torch.arange(n, dtype=torch.float32) for n in SHAPE]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _noise(seed: int) -> Tensor:
    return torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_an_affine_displacement_is_kept_whatever_the_confidence() -> None:
    x = _positions()
    matrix = torch.tensor([[0.1, 0.05, 0.0], [-0.04, -0.1, 0.02], [0.0, 0.03, 0.08]])
    affine = torch.einsum("ij,bjzyx->bizyx", matrix, x) + torch.tensor([3.0, -2.0, 1.0]).view(
        1, 3, 1, 1, 1
    )
    found = smooth_by_confidence(affine, _noise(1).abs() * 5, x, sigma=1)
    torch.testing.assert_close(found, affine, rtol=0, atol=1e-4)


def test_a_shift_of_either_image_shifts_the_result_alike() -> None:
    x, moved = _positions(), _noise(2) * 2
    spread = _noise(3).abs() * 4
    shift = torch.tensor([5.0, -7.0, 2.0]).view(1, 3, 1, 1, 1)
    plain = smooth_by_confidence(moved, spread, x, sigma=1)
    by_moving = smooth_by_confidence(moved + shift, spread, x, sigma=1)
    by_fixed = smooth_by_confidence(moved, spread, x + shift, sigma=1)
    torch.testing.assert_close(by_moving, plain + shift, rtol=0, atol=1e-4)
    torch.testing.assert_close(by_fixed, plain, rtol=0, atol=1e-4)


def test_unsure_voxels_follow_the_sure_ones() -> None:
    """A cube of sure matches moved by (2, 0, 0) in a ground of wild ones: no folds, and the
    cube keeps its displacement."""
    x = _positions()
    moved, spread = _noise(4) * 8, torch.full((1, 3, *SHAPE), 12.0)
    cube = (..., slice(4, 10), slice(4, 9), slice(5, 12))
    moved[cube] = torch.tensor([2.0, 0.0, 0.0]).view(1, 3, 1, 1, 1)
    spread[cube] = 0.5
    assert (jacobian_determinant(x + moved) <= 0).float().mean() > 0.2
    found = smooth_by_confidence(moved, spread, x, sigma=1)
    assert int((jacobian_determinant(x + found) <= 0).sum()) == 0
    inner = (..., slice(6, 8), slice(6, 7), slice(7, 10))
    torch.testing.assert_close(found[inner], moved[inner], rtol=0, atol=0.05)


def test_folds_are_blurred_away_and_nothing_else() -> None:
    """A voxel thrown by four voxels folds its cells: afterwards none is, and ten voxels away
    all is as it was."""
    shape = (30, 28, 32)
    voxels = voxels_per_unit(shape, False).view(1, 3, 1, 1, 1)
    grid = identity(shape, False) * voxels
    u = 0.4 * torch.sin(grid / 6)
    assert torch.equal(unfolded(u / voxels, False), u / voxels)
    thrown = u.clone()
    thrown[0, :, 8, 8, 8] += 4
    assert (jacobian_determinant(grid + thrown) <= 0).any()
    found = unfolded(thrown / voxels, False) * voxels
    assert jacobian_determinant(grid + found).min() > 0
    far = (..., slice(18, None), slice(18, None), slice(18, None))
    torch.testing.assert_close(found[far], u[far], rtol=0, atol=1e-6)

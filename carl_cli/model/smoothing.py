"""Maps made smooth where the match is unsure, and free of folds; neither is in the paper.

Coordinate attention gives each voxel its own answer: sharp on structures, arbitrary on empty
ground. Here the answers are averaged with weights that fall with the spread of the attention
row: an affine map is fitted to all of them, and what is left over is smoothed and fades out
where nothing is sure. A translation of either image moves the answers by a constant, which
weighted fits and averages keep, so [W, U]-equivariance is not lost.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from carl_cli.model.blur import blur
from carl_cli.model.fields import identity, jacobian_determinant, voxels_per_unit_of

SHARPEST_SPREAD = 1.0  # voxels; below this a match counts as sure
LEAST_VOLUME = 0.02  # of a cell, before what surrounds it is blurred
UNFOLDING = 20  # rounds of that, at most
UNFOLDING_SIGMA = 2.0  # voxels
NEAR = 0.05  # share of folds in a Gaussian around a voxel from which on it is blurred entirely
FADE = 1e-2  # of the largest weight: where the weights are smaller, the affine map takes over


def smooth_by_confidence(
    displacement_BDx: Tensor, spread_BDx: Tensor, positions_BDx: Tensor, sigma: int
) -> Tensor:
    """Regular field near the given one; all (B, D, *shape) in voxels of this grid.

    spread: standard deviations of the attention rows. sigma: of the smoothing, in voxels.
    """
    variance = spread_BDx.square().sum(1, keepdim=True)
    weight = (variance + SHARPEST_SPREAD**2) ** -2
    affine = _fitted_affine(displacement_BDx, weight, positions_BDx)
    rest = displacement_BDx - affine
    fade = FADE * weight.amax(dim=tuple(range(1, weight.dim())), keepdim=True)
    return affine + blur(weight * rest, sigma) / (blur(weight, sigma) + fade)


def _fitted_affine(displacement: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
    """The weighted least-squares affine displacement, at all positions.

    Solved in float64 about the weighted centre: the normal equations are then well scaled.
    """
    total = weight.flatten(2).sum(2, keepdim=True).double()
    share = weight.flatten(2).double() / total  # B, 1, N
    x, y = positions.flatten(2).double(), displacement.flatten(2).double()
    centre, shift = (x * share).sum(2, keepdim=True), (y * share).sum(2, keepdim=True)
    spread = ((x - centre) * share) @ (x - centre).transpose(1, 2)
    cross = ((y - shift) * share) @ (x - centre).transpose(1, 2)
    ridge = 1e-9 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    matrix = torch.linalg.solve(spread + ridge, cross.transpose(1, 2)).transpose(1, 2)
    return (matrix @ (x - centre) + shift).to(displacement).view_as(displacement)


def unfolded(u_BDx: Tensor, align_corners: bool) -> Tensor:
    """A displacement in unit coordinates, blurred near folds until no cell is turned inside out.

    u (B, D, *shape); elsewhere it is kept. After `UNFOLDING` rounds what is left stays: this is the
    quick remedy between two steps of a network. What is written is repaired, at the user's wish,
    by `transforms.folds`, which ends without a fold, knows mm, and loads no torch.
    """
    shape = u_BDx.shape[2:]
    grid = identity(shape, align_corners, u_BDx.device)
    voxels = voxels_per_unit_of(u_BDx, align_corners)
    for _ in range(UNFOLDING):
        cells = jacobian_determinant((grid + u_BDx) * voxels) < LEAST_VOLUME
        if not cells.any():
            break
        near = pad(cells[:, None].to(u_BDx), [1, 0] * len(shape))
        near = (blur(near, UNFOLDING_SIGMA) / NEAR).clamp(max=1)
        u_BDx = u_BDx + near * (blur(u_BDx, UNFOLDING_SIGMA) - u_BDx)
    return u_BDx

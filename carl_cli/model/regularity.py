"""How regular a map is, as losses: 0 for translations (diffusion, the second line of the paper's
Eq. 17) and for exact inverses (GradICON, that of Eq. 18)."""

from __future__ import annotations

import torch
from torch import Tensor

from carl_cli.model.fields import Map, Shape, cut, identity, mean

STEP = 1e-3  # of a unit coordinate; the published finite difference


def diffusion(phi_BDx: Tensor, identity_1Dx: Tensor) -> Tensor:
    """Mean squared forward difference of the displacement, in units of the first axis (Eq. 17).

    phi, identity: (B, D, *shape) unit coordinates at all voxels. A number without a unit.
    """
    displacement = phi_BDx - identity_1Dx
    axes = range(2, displacement.dim())
    energies = [mean(displacement.diff(dim=axis) ** 2) for axis in axes]
    return torch.stack(energies).sum() * phi_BDx.shape[2] ** 2


def gradicon(
    forward: Map,
    backward: Map,
    shape: Shape,
    align_corners: bool,
    generator: torch.Generator,
    stride: int = 1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """‖∇(forward ∘ backward) - 1‖² at randomly moved voxels of a grid of `shape` (Eq. 18).

    stride 1 takes every voxel; 2 takes every second along each axis with twice the offset,
    the authors' sparse form, an eighth of the work in 3D. The generator lives on the CPU,
    so that a seed draws the same offsets on every device.
    """
    points = identity(shape, align_corners, device)
    noise = torch.randn(points.shape, generator=generator).to(device)
    points = points + noise * (stride / shape[-1])
    points = cut(points, [slice(None, None, stride)] * len(shape))
    error = points - forward(backward(points))
    slopes = [_slope(forward, backward, points, error, axis) for axis in range(len(shape))]
    return torch.stack(slopes).sum()


def _slope(forward: Map, backward: Map, points: Tensor, error: Tensor, axis: int) -> Tensor:
    """Mean squared derivative of the inverse-consistency error along one axis."""
    dimension = points.shape[1]
    step = points.new_zeros(1, dimension, *[1] * dimension)
    step[:, axis] = STEP
    moved = points + step
    return mean(((error - (moved - forward(backward(moved)))) / STEP) ** 2)

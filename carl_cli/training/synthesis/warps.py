"""Smooth fields, random affine maps and sampling, in voxel coordinates (z, y, x) or (y, x).

Everything separable (spline noise, Gaussian blur, loss of resolution) is one small matrix
per axis, because matrix products are quick on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from carl_cli.training.synthesis.chance import Chance

Shape = tuple[int, ...]  # (D, H, W), or (H, W): what is written for volumes holds for slices
CONTROL_CELLS = 16  # of the spline that holds a displacement


def separable(field: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """(C, a, b, c) → (C, D, H, W) with one (D, a), (H, b), (W, c) matrix per axis."""
    *outer, y, x = matrices
    field = y @ (field @ x.T)
    for z in outer:
        channels, a, *rest = field.shape
        field = (z @ field.reshape(channels, a, -1)).reshape(channels, z.shape[0], *rest)
    return field


@lru_cache(maxsize=256)
def spline_matrix(samples: int, cells: int, device: torch.device) -> Tensor:
    """(samples, cells + 3) cubic B-spline basis at equally spaced points, ends included."""
    position = torch.linspace(0, cells, samples)
    distance = (position[:, None] - torch.arange(-1, cells + 2)[None]).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far).to(device)


@lru_cache(maxsize=256)
def blur_matrix(samples: int, sigma_voxels: float, device: torch.device) -> Tensor:
    """(samples, samples) Gaussian average, normalised at the ends; sigma 0 = identity."""
    axis = torch.arange(samples, dtype=torch.float32)
    if sigma_voxels < 0.05:
        return torch.eye(samples, device=device)
    weight = torch.exp(-((axis[:, None] - axis) ** 2) / (2 * sigma_voxels**2))
    return (weight / weight.sum(1, keepdim=True)).to(device)


@lru_cache(maxsize=256)
def slice_matrix(samples: int, thickness: int, device: torch.device) -> Tensor:
    """(samples, samples): averaged over slices `thickness` voxels apart, then interpolated."""
    centres = torch.arange((samples % thickness) // 2, samples, thickness).float()
    axis = torch.arange(samples, dtype=torch.float32)
    profile = torch.exp(-((centres[:, None] - axis) ** 2) / (2 * (0.42 * thickness) ** 2))
    profile = profile / profile.sum(1, keepdim=True)
    tent = (1 - (axis[:, None] - centres).abs() / thickness).clamp(min=0)
    return ((tent / tent.sum(1, keepdim=True)) @ profile).to(device)


def smooth_noise(chance: Chance, channels: int, shape: Shape, cells: int) -> Tensor:
    """(channels, D, H, W) spline noise of unit variance (about), `cells` bumps per side."""
    lattice = chance.normal(channels, *(cells + 3,) * len(shape))
    return spline_field(lattice, shape) * 3.0


def spline_field(lattice: Tensor, shape: Shape) -> Tensor:
    """Lattice (C, a+3, b+3, c+3) of spline coefficients → field (C, D, H, W)."""
    matrices = [
        spline_matrix(n, k - 3, lattice.device)
        for n, k in zip(shape, lattice.shape[1:], strict=True)
    ]
    return separable(lattice, matrices)


def identity(shape: Shape, device: torch.device) -> Tensor:
    """(3, D, H, W) voxel coordinates (z, y, x)."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def smooth_displacement(
    chance: Chance, shape: Shape, largest_gradient: float, cells: Sequence[int] = (2, 4, 8)
) -> Tensor:
    """(3, D, H, W) displacement in voxels whose Jacobian J has |J|_F ≤ `largest_gradient`.

    Below 1 the map x + u(x) is a diffeomorphism (u is a contraction). Several scales, each
    with a weight of its own, so that some fields bend slowly and others in detail. They are
    mixed in the coefficients of one spline, whose slopes are averages of the differences
    of its coefficients.
    """
    dimension = len(shape)
    coarse = (CONTROL_CELLS + 3,) * dimension
    coefficients = torch.zeros(dimension, *coarse, device=chance.device)
    for k in cells:
        weight = chance.uniform(0, 1) ** 2 / k
        coefficients += (
            spline_field(chance.normal(dimension, *(k + 3,) * dimension), coarse) * weight
        )
    step = [(n - 1) / CONTROL_CELLS for n in shape]
    factor = largest_gradient / (_largest_gradient(coefficients, step) + 1e-9)
    return spline_field(coefficients * factor, shape)


def _largest_gradient(displacement: Tensor, step: Sequence[float]) -> Tensor:
    """Largest Frobenius norm of the Jacobian of (3, D, H, W), by forward differences."""
    inner = tuple(n - 1 for n in displacement.shape[1:])
    squared = torch.zeros(inner, device=displacement.device)
    for axis, width in enumerate(step):
        slope = displacement.diff(dim=axis + 1)[(slice(None), *map(slice, inner))]
        squared += (slope / width).square().sum(0)
    return squared.max().sqrt()


def rotation(angles_rad: Sequence[float]) -> Tensor:
    """(3, 3) rotation, product of the rotations about the three axes; (2, 2) for one angle."""
    dimension = max(2, len(angles_rad))
    total = torch.eye(dimension)
    planes = {2: [(0, 1)], 3: [(1, 2), (0, 2), (0, 1)]}[dimension]
    for (i, j), angle in zip(planes, angles_rad, strict=True):
        turn = torch.eye(dimension)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        total = total @ turn
    return total


def affine_points(matrix: Tensor, offset: Tensor, points: Tensor) -> Tensor:
    """matrix (3, 3) and offset (3,) applied to points (3, ...)."""
    # Written out: a matrix product may run in TF32, which is a tenth of a voxel at 128.
    rest = [1] * (points.ndim - 1)
    columns = [matrix[:, k].reshape(-1, *rest) * place for k, place in enumerate(points)]
    return sum(columns[1:], start=columns[0]) + offset.reshape(-1, *rest)


def sample_linear(field: Tensor, points: Tensor) -> Tensor:
    """Field (C, a, b, c) at voxel points (3, ...) → (C, ...); the border is continued."""
    size = torch.tensor(field.shape[1:], device=field.device, dtype=torch.float32)
    dimension = len(size)
    unit = points.reshape(dimension, -1) * (2 / (size - 1).clamp(min=1))[:, None] - 1
    grid = unit.flip(0).T.reshape(1, -1, *[1] * (dimension - 1), dimension)
    values = F.grid_sample(field[None], grid, padding_mode="border", align_corners=True)
    return values.reshape(field.shape[0], *points.shape[1:])


def sample_labels(labels: Tensor, points: Tensor) -> Tensor:
    """Integer map (a, b, c) at voxel points (3, ...), nearest; 0 outside."""
    nearest = points.round()
    last = [n - 1 for n in labels.shape]
    inside = torch.ones_like(nearest[0], dtype=torch.bool)
    for place, end in zip(nearest, last, strict=True):
        inside &= (place >= 0) & (place <= end)
    index = [p.clamp(0, end).int() for p, end in zip(nearest, last, strict=True)]
    return _gathered(labels, index) * inside


def sample_tiled(volume: Tensor, points: Tensor) -> Tensor:
    """Volume (a, b, c) repeated without end, at voxel points (3, ...), nearest."""
    nearest = points.round().int()
    index = [p.remainder(n) for p, n in zip(nearest, volume.shape, strict=True)]
    return _gathered(volume, index)


def _gathered(volume: Tensor, index: Sequence[Tensor]) -> Tensor:
    flat = index[0]
    for place, size in zip(index[1:], volume.shape[1:], strict=True):
        flat = flat * size + place
    return volume.reshape(-1).index_select(0, flat.reshape(-1)).reshape(flat.shape)

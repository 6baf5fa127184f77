"""Maps between images as functions, on unit coordinates.

Shapes: B batch, D dimension (2 or 3), C channels, `shape` = (z, y, x) or (y, x).
Points are tensors (B, D, *any) whose component k runs along array axis k. A unit
coordinate u is tied to the voxel index i of n voxels by one of two rules:

  corners   u = i / (n - 1)      0 and 1 are the first and last voxel centres
  centres   u = (i + 0.5) / n    0 and 1 are the outer faces of the image

`corners` is what the published networks were trained with. Under `centres` a voxel keeps
its place when an image is pooled by two, so a shift by whole coarse voxels commutes
exactly with the network. Rules are named by the flag `align_corners`, as torch does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Shape = Sequence[int]


def identity(shape: Shape, align_corners: bool, device: torch.device | str = "cpu") -> Tensor:
    """(1, D, *shape) unit coordinate of each voxel."""
    axes = [_unit_axis(n, align_corners, device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _unit_axis(n: int, align_corners: bool, device: torch.device | str) -> Tensor:
    index = torch.arange(n, dtype=torch.float32, device=device)
    return index / max(n - 1, 1) if align_corners else (index + 0.5) / n


def centred_indices(shape: Shape, like: Tensor) -> Tensor:
    """(D, M) voxel indices of all voxels of an array, flattened, counted from its middle, where
    sums of them in float32 cancel least; dtype and device as of `like`."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


def middle_index(shape: Shape, like: Tensor) -> Tensor:
    """(D,) voxel index of an array's middle, in halves of a voxel."""
    return torch.tensor([(n - 1) / 2 for n in shape], dtype=like.dtype, device=like.device)


def voxels_per_unit(shape: Shape, align_corners: bool) -> Tensor:
    """(D,) how many voxels one unit coordinate spans along each array axis."""
    return torch.tensor([n - 1 if align_corners else n for n in shape], dtype=torch.float32)


def voxels_per_unit_of(values_BDx: Tensor, align_corners: bool) -> Tensor:
    """(1, D, 1, …) the same for the grid of the values, to multiply displacements with."""
    shape = values_BDx.shape[2:]
    return voxels_per_unit(shape, align_corners).to(values_BDx).view(1, -1, *[1] * len(shape))


def summed(values: Tensor, kept: int = 0) -> Tensor:
    """Sum over all axes but the first `kept`, one axis after the other.

    torch shares a sum over all axes at once among its threads: the last bits would depend on
    how many there are.
    """
    while values.dim() > kept:
        values = values.sum(-1)
    return values


def mean(values: Tensor) -> Tensor:
    """Mean over all axes, the same bits for any number of threads."""
    return summed(values) / values.numel()


def sample(values_BCx: Tensor, points_BDx: Tensor, align_corners: bool) -> Tensor:
    """Values at unit coordinates: linear interpolation, border voxels continued outside.

    values (B, C, *shape), points (B, D, *any) → (B, C, *any); either may have batch size 1.
    """
    dimension = points_BDx.shape[1]
    grid = (2 * points_BDx - 1).flip(1).movedim(1, -1)
    flat = grid.reshape(grid.shape[0], *([1] * (dimension - 1)), -1, dimension)
    grid = grid if grid.dim() == dimension + 2 else flat
    batch = max(grid.shape[0], values_BCx.shape[0])
    values = values_BCx.expand(batch, *values_BCx.shape[1:])
    out = torch.nn.functional.grid_sample(
        values,
        grid.expand(batch, *grid.shape[1:]),
        mode="bilinear",
        padding_mode="border",
        align_corners=align_corners,
    )
    return out.reshape(out.shape[0], out.shape[1], *points_BDx.shape[2:])


def resized(values_BCx: Tensor, shape: Sequence[int], align_corners: bool) -> Tensor:
    """(B, C, *shape): linear interpolation on a grid of another shape over the same extent."""
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    return torch.nn.functional.interpolate(
        values_BCx, tuple(shape), mode=mode, align_corners=align_corners
    )


def cut(x: Tensor, slices: Sequence[slice]) -> Tensor:
    """x with these slices taken along its last axes."""
    index: tuple[Any, ...] = (..., *slices)
    return x[index]


class Map(ABC):
    """A function from points of the fixed image to points of the moving one.

    Both are unit coordinates. spread: how unsure Ξ's match is that the map began with, see
    `DisplacementMap`; None where Ξ was not asked.
    """

    spread: Tensor | None = None

    @abstractmethod
    def __call__(self, points_BDx: Tensor) -> Tensor:
        """(B, D, *any) unit coordinates → (B, D, *any) unit coordinates."""

    @abstractmethod
    def on_grid(self, shape: Shape) -> Tensor:
        """(B, D, *shape) images of all voxels of a grid of that shape."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Of the grid on which the map's finest part was found."""


class DisplacementMap(Map):
    """x + u(x), with u given on a grid: (B, D, *shape) in unit coordinates.

    spread (B, D, *coarse shape): standard deviation of Ξ's attention rows, in voxels of its
    features; it has no gradient.
    """

    def __init__(
        self, displacement_BDx: Tensor, align_corners: bool, spread: Tensor | None = None
    ) -> None:
        self.displacement_BDx = displacement_BDx
        self.align_corners = align_corners
        self.spread = None if spread is None else spread.detach()

    @property
    def shape(self) -> Shape:
        return tuple(self.displacement_BDx.shape[2:])

    def __call__(self, points_BDx: Tensor) -> Tensor:
        return points_BDx + sample(self.displacement_BDx, points_BDx, self.align_corners)

    def on_grid(self, shape: Shape) -> Tensor:
        grid = identity(shape, self.align_corners, self.displacement_BDx.device)
        if tuple(shape) == tuple(self.displacement_BDx.shape[2:]):
            return grid + self.displacement_BDx  # at its own nodes: nothing to interpolate
        return self(grid.expand(self.displacement_BDx.shape[0], *grid.shape[1:]))


class ReflectedMap(DisplacementMap):
    """As inside the image, but beyond its border u goes on reflected through its border value:
    u(b + x) = 2 u(b) - u(b - x), so that an affine map stays affine (uniCARL)."""

    def __call__(self, points_BDx: Tensor) -> Tensor:
        folded = torch.where(points_BDx > 1, 2 - points_BDx, points_BDx.abs())
        nearest, mirrored = (
            sample(self.displacement_BDx, points, self.align_corners)
            for points in (points_BDx, folded)
        )
        return points_BDx + 2 * nearest - mirrored


class ComposedMap(Map):
    """outer ∘ inner: the inner map acts first on points of the fixed image."""

    def __init__(self, outer: Map, inner: Map) -> None:
        self.outer = outer
        self.inner = inner
        self.spread = outer.spread

    @property
    def shape(self) -> Shape:
        return self.inner.shape

    def __call__(self, points_BDx: Tensor) -> Tensor:
        return self.outer(self.inner(points_BDx))

    def on_grid(self, shape: Shape) -> Tensor:
        return self.outer(self.inner.on_grid(shape))


class RestrictedMap(Map):
    """x + matrix · (φ(x) - x): matrix (D, D), of displacements in unit coordinates."""

    def __init__(self, inner: Map, matrix: Tensor, align_corners: bool) -> None:
        self.inner, self.matrix, self.align_corners = inner, matrix, align_corners
        self.spread = inner.spread

    @property
    def shape(self) -> Shape:
        return self.inner.shape

    def __call__(self, points_BDx: Tensor) -> Tensor:
        return self._from(points_BDx, self.inner(points_BDx))

    def on_grid(self, shape: Shape) -> Tensor:
        moved = self.inner.on_grid(shape)
        return self._from(identity(shape, self.align_corners, moved.device), moved)

    def _from(self, points: Tensor, moved: Tensor) -> Tensor:
        matrix = self.matrix.to(moved)
        return points + torch.einsum("ij,bj...->bi...", matrix, moved - points)


def jacobian_determinant(phi_BDx: Tensor) -> Tensor:
    """Determinant of each cell's edges at its last corner, as the reference counts folds.

    phi (B, D, *shape) in voxels → (B, *(shape - 1)); 1 where volume is kept, ≤ 0 at folds.
    """
    dimension = phi_BDx.shape[1]
    corner = cut(phi_BDx, [slice(1, None)] * dimension)
    edges = []
    for axis in range(dimension):
        before = [slice(1, None)] * dimension
        before[axis] = slice(None, -1)
        edges.append(corner - cut(phi_BDx, before))
    if dimension == 2:
        (a, b), (c, d) = (edge.unbind(1) for edge in edges)
        return a * d - b * c
    # Written out: linalg.cross takes several times longer.
    (a, b, c), (d, e, f), (g, h, i) = (edge.unbind(1) for edge in edges)
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)

"""One image of a pair: who (a deformed map), from where (an affine), and what is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from carl_cli.training.synthesis.appearance import (
    Contrast,
    degrade,
    normalise,
    paint,
    texture_volume,
)
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.shapes import LabelMap
from carl_cli.training.synthesis.warps import (
    Shape,
    affine_points,
    rotation,
    sample_labels,
    sample_linear,
    sample_tiled,
    smooth_displacement,
)

BEND_SIDE = 24  # samples per side of the displacement that deforms a map


@dataclass(frozen=True)
class Affine:
    """x → matrix · x + offset, voxels (z, y, x)."""

    matrix: Tensor  # (3, 3)
    offset: Tensor  # (3,)

    def __call__(self, points: Tensor) -> Tensor:
        return affine_points(self.matrix, self.offset, points)

    def inverse(self) -> Affine:
        back = torch.linalg.inv(self.matrix.double().cpu())
        offset = -(back @ self.offset.double().cpu())
        return Affine(back.to(self.matrix), offset.to(self.offset))

    def after(self, first: Affine) -> Affine:
        """x → self(first(x)), multiplied in double precision on the host."""
        a, b = self.matrix.double().cpu(), first.matrix.double().cpu()
        offset = a @ first.offset.double().cpu() + self.offset.double().cpu()
        return Affine((a @ b).to(self.matrix), offset.to(self.offset))


@dataclass(frozen=True)
class Pose:
    """Ranges of a random affine; see SynthesisSettings for the units."""

    scale: tuple[float, float]
    stretch: float
    rotation_degrees: float
    translation: float


def random_affine(chance: Chance, map_: LabelMap, shape: Shape, fill: float, pose: Pose) -> Affine:
    """Grid voxel → map voxel; at scale 1 the foreground spans `fill` of the longest side."""
    side = max(shape)
    zoom = map_.extent / (fill * side * chance.log_uniform(*pose.scale))
    reach = math.radians(pose.rotation_degrees)
    d, one = len(shape), torch.eye(len(shape))
    turn = rotation(chance.uniforms(-reach, reach, d * (d - 1) // 2))
    stretch = torch.tensor(chance.uniforms(-pose.stretch, pose.stretch, d)).exp()
    shear = one + torch.triu(torch.tensor(chance.uniforms(-0.5, 0.5, d * d)).reshape(d, d), 1)
    shear = one + (shear - one) * pose.stretch
    matrix = zoom * turn @ torch.diag(stretch) @ shear
    middle = (torch.tensor(shape) - 1) / 2
    shift = torch.tensor(chance.uniforms(-pose.translation, pose.translation, d)) * side
    offset = map_.centre - matrix @ (middle + shift)
    return Affine(matrix.to(chance.device), offset.to(chance.device))


@dataclass(frozen=True)
class Person:
    """Who is seen."""

    map: LabelMap
    texture: Tensor  # (1, D, H, W)
    bend: Tensor | None = None  # (3, …) displacement that deforms the map, on a coarse grid

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (…) and texture (1, …) at points (3, …) of the deformed map's frame."""
        shape = self.map.labels.shape
        moved = points
        if self.bend is not None:
            moved = points + sample_linear(self.bend, _rescaled(points, shape, self.bend))
        texture = sample_tiled(self.texture[0], _rescaled(moved, shape, self.texture))
        return sample_labels(self.map.labels, moved), texture[None]


def _rescaled(points: Tensor, shape: torch.Size, volume: Tensor) -> Tensor:
    """Voxels of the map → voxels of a volume over the same extent."""
    factor = [(n - 1) / (m - 1) for n, m in zip(volume.shape[1:], shape, strict=True)]
    return points * torch.tensor(factor, device=points.device).reshape(-1, *[1] * len(factor))


def bent_person(chance: Chance, map_: LabelMap, texture_shape: Shape, gradient: float) -> Person:
    """`gradient`: largest gradient of the displacement that deforms the map."""
    small = (BEND_SIDE,) * map_.labels.dim()
    bend = smooth_displacement(chance, small, gradient)
    ratio = [(n - 1) / (BEND_SIDE - 1) for n in map_.labels.shape]
    # The smallest ratio for all axes keeps the gradient in map voxels below the bound.
    return Person(map_, texture_volume(chance, texture_shape), bend * min(ratio))


@dataclass(frozen=True)
class Slab:
    """Part of a body that both images show: along `axis`, around `centre` ± `half`, in
    fractions of the foreground's box."""

    axis: int
    centre: float
    half: float

    def holds(self, points: Tensor, map_: LabelMap) -> Tensor:
        low, high = map_.low[self.axis], map_.high[self.axis]
        place = (points[self.axis] - low) / max(high - low, 1.0)
        return (place - self.centre).abs() <= self.half


def random_slab(chance: Chance, dimension: int) -> Slab:
    half = chance.uniform(0.05, 0.2)
    return Slab(chance.integer(0, dimension - 1), chance.uniform(0.3, 0.7), half)


def random_window(chance: Chance, shape: Shape) -> Tensor:
    """(D, H, W) bool: a field of view smaller than the grid, at most 35 % off each axis."""
    visible = torch.ones(shape, dtype=torch.bool, device=chance.device)
    for axis, n in enumerate(shape):
        if chance.coin(0.5):
            before = int(n * chance.uniform(0, 0.25) * chance.coin(0.6))
            after = int(n * chance.uniform(0, 0.25) * chance.coin(0.6))
            visible.narrow(axis, 0, before).fill_(False)
            visible.narrow(axis, n - after, after).fill_(False)
    return visible


@dataclass(frozen=True)
class View:
    """From where a person is seen, and what of it."""

    person: Person
    points: Tensor  # (3, D, H, W) place of each voxel in the person's frame
    visible: Tensor  # (D, H, W) field of view
    stripped: bool = False  # only the inner labels are shown


@dataclass(frozen=True)
class Rendered:
    """What is seen."""

    image: Tensor  # (1, D, H, W) in [0, 1]
    labels: Tensor  # (D, H, W)
    visible: Tensor  # (D, H, W) field of view
    shown: Tensor  # (D, H, W) False out of view, and where the tissue was stripped


def render(chance: Chance, view: View, contrast: Contrast, strength: float) -> Rendered:
    labels, texture = view.person.at(view.points)
    shown = view.visible
    if view.stripped:
        kept = view.person.map.inner[labels]
        labels, shown = labels * kept, shown & kept
        contrast = Contrast(contrast.mean, contrast.texture, 0.0, 0.0)
    image = degrade(chance, paint(contrast, labels, texture), strength)
    image = normalise(chance, image, view.visible[None], strength)
    return Rendered(image, labels * view.visible, view.visible, shown)

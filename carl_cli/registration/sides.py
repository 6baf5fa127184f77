"""Two maps, each the other's inverse, that move in small smooth steps (Christensen et al. 1996;
symmetric in the two images as in Avants et al. 2008).

u (1, D, *shape) is a displacement in unit coordinates (`model.fields`), on the voxels of its
image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from carl_cli.model.blur import blur_keeping_affine
from carl_cli.model.fields import Map, Shape, identity, sample, voxels_per_unit_of
from carl_cli.model.smoothing import unfolded

INVERSE_ROUNDS = 5  # that make two maps each other's inverse

WHOLE = 0.99  # of a mask's value between its voxels: all of them lie inside

Directions = tuple[Tensor, Tensor]  # of the steps of the fixed and the moving side
Masks = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Side:
    """An image, and its map to the other one."""

    image: Tensor  # its channels at a scale, (1, C, *shape)
    mask: Tensor | None  # where it counts; None: everywhere
    u: Tensor  # (1, D, *shape), unit coordinates
    align_corners: bool

    @property
    def grid(self) -> Tensor:
        return _voxels(self.image.shape[2:], self.align_corners, self.image.device)

    def moved(self, points: Tensor) -> Tensor:
        return points + sample(self.u, points, self.align_corners)


@lru_cache(maxsize=4)  # asked for ten times a step: both sides of a scale, and of the next one
def _voxels(shape: torch.Size, align_corners: bool, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is kept, and a backward pass may need it later
        return identity(shape, align_corners, device)


class Sides(NamedTuple):
    fixed: Side
    moving: Side


def side_of(image: Tensor, mask: Tensor | None, map_: Map, align_corners: bool) -> Side:
    shape = image.shape[2:]
    u = map_.on_grid(shape) - identity(shape, align_corners, image.device)
    return Side(image, mask, u, align_corners)


def regular(sides: Sides) -> Sides:
    """Inverse to each other, and without folds on the voxels of their images."""
    for _ in range(INVERSE_ROUNDS):
        sides = _reduce_inverse_error(sides)
    return Sides(*(replace(side, u=unfolded(side.u, side.align_corners)) for side in sides))


def resized(u: Tensor, shape: Shape, align_corners: bool) -> Tensor:
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    return interpolate(u, size=tuple(shape), mode=mode, align_corners=align_corners)


def carried(other: Side, side: Side) -> tuple[Tensor, Tensor]:
    """The other image on the voxels of `side`, and which of them count: those inside the mask
    that have a counterpart inside the other one."""
    phi = side.grid + side.u
    counts = inside((side.mask, other.mask), phi, side.align_corners)
    return sample(other.image, phi, side.align_corners), counts


def inside(masks: Masks, phi: Tensor, align_corners: bool) -> Tensor:
    """Which voxels (1, 1, *shape) lie in the first mask and go to points phi (1, D, *shape) in the
    second one; a mask is None where its whole image counts."""
    here, there = masks
    counts = ((phi >= 0) & (phi <= 1)).all(1, keepdim=True)
    if here is not None:
        counts = counts & (here != 0)
    if there is not None:
        counts = counts & (sample(there.float(), phi, align_corners) >= WHOLE)
    return counts


def stepped(sides: Sides, direction: Directions, length: float, elasticity: float) -> Sides:
    """Both sides after their steps: half the length for each, as the two add up."""
    steps = [
        step * (length / 2 / voxels_per_unit_of(step, side.align_corners))
        for side, step in zip(sides, direction, strict=True)
    ]
    moved = (_composed(sides.fixed, *steps), _composed(sides.moving, *steps[::-1]))
    return _reduce_inverse_error(Sides(*(_relaxed(side, elasticity) for side in moved)))


def _relaxed(side: Side, elasticity: float) -> Side:
    """The whole field smoothed a little, as elastic tissue would: rough parts are given back."""
    return replace(side, u=blur_keeping_affine(side.u, elasticity)) if elasticity else side


def _composed(side: Side, own: Tensor, others: Tensor) -> Side:
    """(id - others) ∘ side ∘ (id + own): the other side's step is one backwards from here."""
    grid = side.grid
    points = side.moved(grid + own)
    return replace(side, u=points - sample(others, points, side.align_corners) - grid)


def _reduce_inverse_error(sides: Sides) -> Sides:
    """Each side takes half of the error of the way through both: they become inverse."""
    fixed, moving = sides
    fixed_error = moving.moved(fixed.grid + fixed.u) - fixed.grid
    moving_error = fixed.moved(moving.grid + moving.u) - moving.grid
    return Sides(
        replace(fixed, u=fixed.u - fixed_error / 2),
        replace(moving, u=moving.u - moving_error / 2),
    )

"""Two maps, each the other's inverse, that move in small smooth steps (Christensen et al. 1996;
symmetric in the two images as in Avants et al. 2008).

u (1, D, *shape) is a displacement in unit coordinates (`model.fields`), on the voxels of its
image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from carl_cli.model.blur import blur_keeping_affine
from carl_cli.model.fields import Map, identity, sample, voxels_per_unit_of
from carl_cli.model.parallel import both
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


def both_sides(function: Callable[[Side], Side], sides: Sides) -> Sides:
    """What the function makes of each side, both at once."""
    calls = [partial(function, side) for side in sides]
    return Sides(*both(calls[0], calls[1], sides.fixed.u.device))


def side_of(image: Tensor, mask: Tensor | None, map_: Map, align_corners: bool) -> Side:
    shape = image.shape[2:]
    u = map_.on_grid(shape) - identity(shape, align_corners, image.device)
    return Side(image, mask, u, align_corners)


def regular(sides: Sides) -> Sides:
    """Inverse to each other, and without folds on the voxels of their images."""
    for _ in range(INVERSE_ROUNDS):
        sides = _reduce_inverse_error(sides)
    return both_sides(_unfolded, sides)


def _unfolded(side: Side) -> Side:
    return replace(side, u=unfolded(side.u, side.align_corners))


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
    first, second = steps
    moved = both(
        partial(_composed, sides.fixed, first, second, elasticity),
        partial(_composed, sides.moving, second, first, elasticity),
        sides.fixed.u.device,
    )
    return _reduce_inverse_error(Sides(*moved))


def _composed(side: Side, own: Tensor, others: Tensor, elasticity: float) -> Side:
    """(id - others) ∘ side ∘ (id + own): the other side's step is one backwards from here.

    Then the whole field is smoothed a little, as elastic tissue would: rough parts are given back.
    """
    grid = side.grid
    points = side.moved(grid + own)
    u = points - sample(others, points, side.align_corners) - grid
    return replace(side, u=blur_keeping_affine(u, elasticity) if elasticity else u)


def _reduce_inverse_error(sides: Sides) -> Sides:
    """Each side takes half of the error of the way through both: they become inverse."""
    fixed, moving = sides
    nearer = both(
        partial(_nearer_inverse, fixed, moving),
        partial(_nearer_inverse, moving, fixed),
        fixed.u.device,
    )
    return Sides(*nearer)


def _nearer_inverse(side: Side, other: Side) -> Side:
    error = other.moved(side.grid + side.u) - side.grid
    return replace(side, u=side.u - error / 2)

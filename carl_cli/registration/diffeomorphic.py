"""Descent of the map itself: symmetric, diffeomorphic, without a network.

Starts from the network's maps and moves both in small smooth steps down the gradient of the
similarity, from coarse to fine. Each step is a map near the identity, composed with what
there is (Christensen et al. 1996; symmetric in the two images as in Avants et al. 2008): the
maps stay invertible, and each stays the other's inverse.

Suffixes as in `fields`. u (1, D, *shape) is a displacement in unit coordinates, on the voxels
of its image.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from carl_cli.model.blur import blur, blur_keeping_affine
from carl_cli.model.fields import DisplacementMap, Map, resized
from carl_cli.model.layers import pooled
from carl_cli.model.parallel import both
from carl_cli.model.similarity import Similarity
from carl_cli.registration.guides import Guide
from carl_cli.registration.masks import coarse_mask, without_rim
from carl_cli.registration.sides import (
    Directions,
    Side,
    Sides,
    both_sides,
    carried,
    regular,
    side_of,
    stepped,
)

log = logging.getLogger(__name__)


class Scale(NamedTuple):
    """A grid, and what a Descent's steps and smoothing are multiplied with there."""

    coarser: int  # network voxels along each axis of one voxel there
    steps: int
    smoothing: float


# The coarsest has four times the steps: where the network is off by more than a window of the
# similarity, only such a scale sees it, and it costs little. The finest may bend more: what it
# alone sees is small.
SCALES = (Scale(8, 4, 1), Scale(4, 4, 1), Scale(2, 3, 7 / 8), Scale(1, 1, 3 / 4))
ROAMING_SCALE = 4  # or coarser: on finer scales roaming fits noise
ROAMING_LENGTHS = 0.5, 0.1  # voxels of the coarsest scale: of its first and its last step
MOMENTUM = 0.8
PATIENCE, CLEAR_GAIN = 1 / 4, 1e-3  # roaming ends if so many of its steps gain no such share
# Or finer: channels there don't count where their patches look out of the mask. On coarser scales
# that would leave too little of a narrow mask.
PATCHES_SCALE = 2
MIN_VOXELS = 8  # along each axis: on fewer, such steps would lead anywhere
LONGEST = 1.0  # voxels: the largest displacement of a step, to begin with
SHORTEST = 0.02  # voxels: a scale is done when steps of this length lead nowhere

Report = Callable[[float, str], None]
Channels = Callable[[Tensor, int], Tensor]


def intensities(image: Tensor, coarser: int) -> Tensor:
    """(1, 1, *shape) averaged over blocks of `coarser` voxels along each axis."""
    return pooled(image, coarser)


@dataclass(frozen=True)
class Descent:
    """How far down, and how smoothly."""

    similarity: Similarity  # of the channels (1, C, *shape) of two images, and a mask
    steps: int  # at most, on the network grid; up to four times as many on coarser ones
    # Width of the Gaussian over each step on the coarsest scale, in its voxels; a little less on
    # the finer ones, in theirs.
    smoothing: float
    elasticity: float = 0.0  # width of the Gaussian over the whole field after each step, voxels
    scales: tuple[Scale, ...] = SCALES
    channels: Channels = intensities  # what is compared, of an image and at a scale
    patches: bool = False  # whether a channel tells of the patch around a voxel
    freedom: Tensor | None = None  # (D, D) on each step in voxels, array-axis order; None: all
    guides: tuple[Guide, Guide] | None = None  # what pulls the fixed and the moving side as well

    def at(self, scale: Scale) -> Descent:
        steps, smoothing = scale.steps * self.steps, scale.smoothing * self.smoothing
        return replace(self, steps=steps, smoothing=smoothing)


def refine(
    maps: Sequence[Map],
    images: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    align_corners: bool,
    descent: Descent,
    report: Report,
) -> tuple[Map, Map, list[float]]:
    """Maps fixed → moving and moving → fixed near the given ones, and the loss at each step.

    images and masks: fixed, moving, (1, 1, *shape). report(part of the work done, scale
    and loss in words) hears of each step. The maps given come back where none is found that is
    better, or where their loss is no number. Losses never rise: as those of two scales can't be
    compared, each scale's are moved to go on from where the one before ended.
    """
    if not descent.steps:
        return maps[0], maps[1], []
    given = zip(images, masks, maps, strict=True)
    sides = Sides(*(side_of(image, mask, map_, align_corners) for image, mask, map_ in given))
    finest = descent.scales[-1]
    begun = _loss(_level(sides, finest, descent), descent)
    if not math.isfinite(begun):
        log.warning("the images can't be compared where they lie: the maps stay as they are")
        return maps[0], maps[1], []
    own = [descent.at(scale) for scale in descent.scales]
    dimension = images[0].dim() - 2
    works = [d.steps / s.coarser**dimension for s, d in zip(descent.scales, own, strict=True)]
    curves: list[list[float]] = []

    def note(loss: float) -> None:
        curves[-1].append(loss)
        level = len(curves) - 1
        done = sum(works[:level]) + works[level] * len(curves[-1]) / own[level].steps
        report(done / sum(works), f"scale {level + 1} of {len(works)}, loss {loss:.4f}")

    with torch.no_grad():
        start = sides
        for scale, each in zip(descent.scales, own, strict=True):
            curves.append([])
            level = _level(sides, scale, descent)
            roams = scale.coarser >= ROAMING_SCALE and len(curves) == 1 and _has_room(level)
            level = regular((_roam if roams else _descend)(regular(level), each, note))
            sides = Sides(*(replace(s, u=found.u) for s, found in zip(sides, level, strict=True)))
        best = sides if _loss(_level(sides, finest, descent), descent) <= begun else start
    forward, backward = (
        DisplacementMap(side.u, align_corners, map_.spread)
        for side, map_ in zip(best, maps, strict=True)
    )
    return forward, backward, _joined(curves)


def relaxed(
    maps: Sequence[Map], images: Sequence[Tensor], align_corners: bool, sigma: float
) -> tuple[Map, Map]:
    """Both maps blurred by sigma voxels, affine maps kept, and made each other's inverse."""
    pairs = zip(images, maps, strict=True)
    sides = (side_of(image, None, map_, align_corners) for image, map_ in pairs)
    blurred = (replace(side, u=blur_keeping_affine(side.u, sigma)) for side in sides)
    forward, backward = (
        DisplacementMap(side.u, align_corners, map_.spread)
        for side, map_ in zip(regular(Sides(*blurred)), maps, strict=True)
    )
    return forward, backward


def _joined(curves: list[list[float]]) -> list[float]:
    losses = list(curves[0])
    for curve in curves[1:]:
        losses += [losses[-1] + loss - curve[0] for loss in curve]
    return losses


def _level(sides: Sides, scale: Scale, descent: Descent) -> Sides:
    return both_sides(partial(_at_scale, scale.coarser, descent), sides)


def _at_scale(coarser: int, descent: Descent, side: Side) -> Side:
    """The channels at a scale; u, of whatever scale, interpolated on their voxels."""
    image, mask = descent.channels(side.image, coarser), coarse_mask(side.mask, coarser)
    if mask is not None and descent.patches and coarser <= PATCHES_SCALE:
        mask = without_rim(mask)
    u = resized(side.u, image.shape[2:], side.align_corners)
    return replace(side, image=image, mask=mask, u=u)


def _has_room(sides: Sides) -> bool:
    return all(min(side.image.shape[2:]) >= MIN_VOXELS for side in sides)


def _roam(sides: Sides, descent: Descent, note: Callable[[float], None]) -> Sides:
    """The best of so many states as there are steps; note hears the lowest loss after each.

    Steps shrink by a plan and may raise the loss, and momentum (Polyak 1964) carries them on:
    on the coarsest scale this leads out of the valley where the network's map lies, if it is
    the wrong one. On finer scales it would fit what is noise.
    """
    first, last = ROAMING_LENGTHS
    lowest, best, trial, momentum = math.inf, sides, sides, None
    gained = 0  # the last step that led clearly lower
    for k in range(descent.steps):
        loss, downhill = _downhill(trial, descent)
        if loss < lowest * (1 - CLEAR_GAIN):
            gained = k
        if loss < lowest:
            lowest, best = loss, trial
        note(lowest)
        if k - gained > PATIENCE * descent.steps:
            break
        momentum = downhill if momentum is None else _averaged(momentum, downhill)
        fixed_step, moving_step = map(_unit, momentum)
        length = first * (last / first) ** (k / descent.steps)
        trial = stepped(trial, (fixed_step, moving_step), length, descent.elasticity)
    return best


def _averaged(momentum: Directions, downhill: Directions) -> Directions:
    pairs = zip(momentum, downhill, strict=True)
    first, second = (MOMENTUM * m + (1 - MOMENTUM) * d for m, d in pairs)
    return first, second


def _descend(sides: Sides, descent: Descent, note: Callable[[float], None]) -> Sides:
    """The best state after all steps, or fewer; note hears the lowest loss after each.

    A step that does not lower the loss is taken back and tried at half the length, so that
    images which match already are left in place.
    """
    length, lowest, best, trial = LONGEST, math.inf, sides, sides
    for _ in range(descent.steps):
        loss, downhill = _downhill(trial, descent)
        if loss < lowest:
            lowest, best, direction = loss, trial, downhill
        else:
            length /= 2
        note(lowest)
        if length < SHORTEST:
            break
        trial = stepped(best, direction, length, descent.elasticity)
    return best


def _loss(sides: Sides, descent: Descent) -> float:
    """Of both directions."""
    losses = []
    for side, other in (sides, sides[::-1]):
        warped, mask = carried(other, side)
        losses.append(descent.similarity(warped, side.image, mask).item())
    guided = zip(descent.guides or (), sides, strict=False)
    return sum(losses) + sum(guide.pull(side)[0] for guide, side in guided)


def _downhill(sides: Sides, descent: Descent) -> tuple[float, Directions]:
    """Loss of both directions, and for each a step whose longest displacement is a voxel."""
    first, second = descent.guides or (None, None)
    (loss_fixed, step_fixed), (loss_moving, step_moving) = both(
        partial(_pull, sides.fixed, sides.moving, descent, first),
        partial(_pull, sides.moving, sides.fixed, descent, second),
        sides.fixed.u.device,
    )
    return loss_fixed + loss_moving, (step_fixed, step_moving)


def _pull(side: Side, other: Side, descent: Descent, guide: Guide | None) -> tuple[float, Tensor]:
    """Loss of `side` against the other image carried to it, and its smooth steepest descent."""
    warped, mask = carried(other, side)
    with torch.enable_grad():
        leaf = warped.requires_grad_()
        loss = descent.similarity(leaf, side.image, mask)
        (slope,) = torch.autograd.grad(loss, leaf)
    value, pull = loss.item(), pulled_along(slope, warped.detach())
    if guide is not None:
        more, known = guide.pull(side)
        value, pull = value + more, pull + known
    downhill = blur(-pull, descent.smoothing)
    if descent.freedom is not None:
        downhill = torch.einsum("ij,bj...->bi...", descent.freedom.to(downhill), downhill)
    return value, _unit(downhill)


def _unit(step: Tensor) -> Tensor:
    """Its longest displacement is one voxel."""
    longest = step.square().sum(1).amax().sqrt()
    return step / longest.clamp_min(torch.finfo(step.dtype).tiny)


def pulled_along(slope: Tensor, image: Tensor) -> Tensor:
    """(1, D, *shape): per axis the sum over channels of slope · derivative of the image, both
    (1, C, *shape), by central differences per voxel; 0 at the border."""
    shape = image.shape[2:]
    pull = image.new_zeros(1, len(shape), *shape)
    for axis, n in enumerate(shape):
        if n > 2:
            after, before = (image.narrow(axis + 2, start, n - 2) for start in (2, 0))
            inner = slope.narrow(axis + 2, 1, n - 2) * (after - before) / 2
            pull[:, axis].narrow(axis + 1, 1, n - 2).copy_(inner.sum(1))
    return pull

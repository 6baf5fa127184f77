"""Alignment of the network's maps on what looks alike in any two contrasts, and whether it holds.

Self-similarity channels (MIND-SSC; Heinrich et al., MICCAI 2013) tell where edges are, not which
side is brighter. They are computed once for each image and scale, one level finer than they are
compared, and the maps move down the squared difference between them (`diffeomorphic`). Images of
one contrast go on by their local correlation. There is nothing to learn here; all depends on the
content around a voxel, so it moves with the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from carl_cli.model.fields import DisplacementMap, Map, sample, voxels_per_unit_of
from carl_cli.model.layers import pool
from carl_cli.model.similarity import lncc, over_channels, self_similarity, squared_difference
from carl_cli.progress import Progress, silent
from carl_cli.registration.diffeomorphic import (
    MIN_VOXELS,
    SCALES,
    Descent,
    Scale,
    coarse_mask,
    intensities,
    refine,
    with_rim,
)
from carl_cli.registration.guides import Guide
from carl_cli.registration.shift import best_shift
from carl_cli.registration.sides import inside, resized
from carl_cli.weights.folder import AlignmentRule

STAGE = "alignment"
SEARCHED, PART_SEARCHED = 0.4, 0.45  # of the time, about
COARSE, FINE = (Scale(4, 3, 1),), (Scale(2, 2, 1),)
THIN = 40  # voxels along an axis: halving leaves too few, so all of the grid is used as well
WINDOW = 2  # voxels: sigma of the local correlations
PARTS = 16  # of the foreground, by brightness
RISING = 0.97  # in images of one contrast; T1 and FLAIR: 0.94, T1 and T2: 0.65, inverted: 0
FOREGROUND = 0.05
# Of a foreground, what the other one covers: so little, and nearly all of the other, for a part.
PART, WHOLE = 0.75, 0.93
CLEARLY = 0.9  # of the difference without a shift
EVIDENCE_VOXELS = 2  # by which a map is moved, at half of the grid, to see whether that matters

Maps = tuple[Map, Map]
Scales = tuple[Scale, ...]
LNCC = partial(lncc, sigma=WINDOW)


@dataclass(frozen=True)
class Pair:
    """Images (1, C, *shape) in [0, 1], of C contrasts in one space, and masks (1, 1, *shape) or
    None, on one device. channel_weights: of the contrasts; they add up to 1."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    guides: tuple[Guide, Guide] | None = None  # of the fixed and the moving side
    channel_weights: tuple[float, ...] = (1.0,)

    @property
    def masked(self) -> bool:
        return self.fixed_mask is not None or self.moving_mask is not None

    def counting(self, points: Tensor, align_corners: bool) -> Tensor | bool:
        """Which voxels (1, 1, *shape) of the fixed image, at half of the grid, lie inside the
        masks: they, and their counterparts at points (1, D, *shape); True without masks."""
        if not self.masked:
            return True
        masks = coarse_mask(self.fixed_mask, 2), coarse_mask(self.moving_mask, 2)
        return inside(masks, points, align_corners)


def contexts(image: Tensor, coarser: int, noise_floor: float) -> Tensor:
    """(1, 12, *shape / coarser): self-similarity one level finer than this scale, averaged."""
    if coarser == 1:
        return self_similarity(image, floor=noise_floor)
    return pool(self_similarity(intensities(image, coarser // 2), floor=noise_floor))


def all_contexts(
    image: Tensor, coarser: int, noise_floor: float, weights: Sequence[float]
) -> Tensor:
    """(1, 12 C, *shape / coarser) of an image of C contrasts: a mean of squared differences over
    all is the weighted mean of those of each."""
    if len(weights) == 1:
        return contexts(image, coarser, noise_floor)
    parts = zip(image.split(1, dim=1), weights, strict=True)
    scaled = [(len(weights) * w) ** 0.5 * contexts(part, coarser, noise_floor) for part, w in parts]
    return torch.cat(scaled, dim=1)


def brightest(image: Tensor, coarser: int) -> Tensor:
    """(1, 1, *shape / coarser): the largest of the contrasts, which tells the foreground."""
    return intensities(image, coarser).amax(1, keepdim=True)


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return (first != 0) & second


class Contexts:
    """The channels of a pair, computed once for each image and scale."""

    def __init__(self, pair: Pair, rule: AlignmentRule) -> None:
        self.pair, self.rule = pair, rule
        self._known: dict[tuple[int, int], Tensor] = {}

    def __call__(self, image: Tensor, coarser: int) -> Tensor:
        key = (image.data_ptr(), coarser)
        if key not in self._known:
            weights = self.pair.channel_weights
            self._known[key] = all_contexts(image, coarser, self.rule.noise_floor, weights)
        return self._known[key]

    def within(self, fixed_mask: Tensor | None, moving_mask: Tensor | None) -> Contexts:
        """The same channels, counted inside these masks too."""
        pair = self.pair
        found = Contexts(
            replace(
                pair,
                fixed_mask=_both(pair.fixed_mask, fixed_mask),
                moving_mask=_both(pair.moving_mask, moving_mask),
            ),
            self.rule,
        )
        found._known = self._known
        return found

    def beside(self, moving: Tensor) -> Contexts:
        """Of the same fixed image and another moving one, without masks; what is known of the
        fixed one stays known."""
        found = Contexts(Pair(self.pair.fixed, moving), self.rule)
        own = self.pair.fixed.data_ptr()
        found._known = {key: value for key, value in self._known.items() if key[0] == own}
        return found

    def difference(self, forward: Map, align_corners: bool, shift: Tensor | float = 0.0) -> float:
        """Behind the map, moved by a shift in unit coordinates: in the fixed foreground at half of
        the network's grid."""
        fixed, moving = self(self.pair.fixed, 2), self(self.pair.moving, 2)
        points = forward.on_grid(fixed.shape[2:]) + shift
        shown = brightest(self.pair.fixed, 2) > FOREGROUND
        shown = shown & self.pair.counting(points, align_corners)
        return float(squared_difference(sample(moving, points, align_corners), fixed, shown))


def align(
    maps: Maps,
    known: Contexts,
    align_corners: bool,
    progress: Progress = silent,
    freedom: Tensor | None = None,
) -> tuple[Maps, Contexts]:
    """Maps fixed → moving and moving → fixed near the given ones, and what they were judged by:
    with masks where one image shows a part of the other. freedom: see `Descent`.

    A quarter of the network's grid is searched from the given maps and from a shift of the whole
    image: the one that fits best of all (`shift`) if it is clearly better than none, which brings
    the foregrounds' middles together. What fits best then goes on at half of the grid. Images of
    one contrast go on by their local correlation instead, from an eighth of the grid to half of it,
    and on all of a thin one.
    """
    rule = known.rule
    by_context = Descent(
        squared_difference, rule.steps, rule.smoothing, rule.elasticity, channels=known
    )

    def moved(
        start: Maps, within: Pair, descent: Descent, scales: Scales, first: float, last: float
    ) -> Maps:
        def told(share: float, words: str) -> None:
            progress(STAGE, first + share * (last - first), words)

        images, masks = (within.fixed, within.moving), (within.fixed_mask, within.moving_mask)
        descent = replace(descent, scales=scales, freedom=freedom, guides=within.guides)
        return refine(start, images, masks, align_corners, descent, told)[:2]

    def searched(starts: list[Maps], by: Contexts, first: float, last: float) -> Maps:
        if min(by.pair.fixed.shape[2:]) >= MIN_VOXELS * COARSE[0].coarser:
            ends = pairwise(np.linspace(first, last, len(starts) + 1).tolist())
            each = zip(starts, ends, strict=True)
            starts = starts + [moved(s, by.pair, by_context, COARSE, *e) for s, e in each]
        return min(starts, key=lambda found: by.difference(found[0], align_corners))

    shifts, unmoved = _shifts(known, align_corners), _identities(known.pair, align_corners)
    differences = [known.difference(start[0], align_corners) for start in (shifts, unmoved)]
    clear = differences[0] < CLEARLY * differences[1]
    best = searched([maps, shifts if clear else unmoved], known, 0.0, SEARCHED)
    if (part := _part(known, shifts, align_corners)) is not None:
        other = searched([shifts], part, SEARCHED, PART_SEARCHED)
        if evidence(other[0], part, align_corners) > evidence(best[0], known, align_corners):
            best, known = other, part
    pair = known.pair
    if alike(best[0], pair, align_corners):
        thin = min(*pair.fixed.shape[2:], *pair.moving.shape[2:]) <= THIN
        scales = SCALES if thin else SCALES[:-1]
        by_correlation = over_channels(partial(LNCC, within=pair.masked), pair.channel_weights)
        descent = Descent(by_correlation, rule.steps, rule.smoothing)
        return moved(best, pair, descent, scales, PART_SEARCHED, 1.0), known
    return moved(best, pair, by_context, FINE, PART_SEARCHED, 1.0), known


def _shifts(known: Contexts, align_corners: bool) -> Maps:
    """The shift of the whole image that fits best, both ways, to a quarter of the grid; none
    between grids of two shapes, whose voxels don't correspond."""
    coarser, pair = COARSE[0].coarser, known.pair
    voxels = torch.zeros(pair.fixed.dim() - 2)
    if pair.fixed.shape == pair.moving.shape:
        fixed, moving = (known(image, coarser) for image in (pair.fixed, pair.moving))
        voxels = coarser * best_shift(fixed, moving, *_foregrounds(pair, coarser))
    return (
        _constant(pair.fixed, voxels, align_corners),
        _constant(pair.moving, -voxels, align_corners),
    )


def _identities(pair: Pair, align_corners: bool) -> Maps:
    nowhere = torch.zeros(pair.fixed.dim() - 2)
    first, second = (_constant(x, nowhere, align_corners) for x in (pair.fixed, pair.moving))
    return first, second


def _foregrounds(pair: Pair, coarser: int) -> tuple[Tensor, Tensor]:
    """(1, 1, *shape / coarser) bool of the fixed and the moving image, inside the masks."""
    shown = [brightest(image, coarser) > FOREGROUND for image in (pair.fixed, pair.moving)]
    masks = [coarse_mask(mask, coarser) for mask in (pair.fixed_mask, pair.moving_mask)]
    first, second = (s if m is None else s & m for s, m in zip(shown, masks, strict=True))
    return first, second


def _part(known: Contexts, shifts: Maps, align_corners: bool) -> Contexts | None:
    """Where one image shows but a part of the other, as a brain without its head: the other one
    masked to that part, and a little around it. None where neither does."""
    shown = _foregrounds(known.pair, COARSE[0].coarser)
    there = [
        sample(other.float(), way.on_grid(own.shape[2:]), align_corners) > 0.5
        for own, other, way in zip(shown, shown[::-1], shifts, strict=True)
    ]
    covered = [float((a & b).sum() / a.sum()) for a, b in zip(shown, there, strict=True)]
    if min(covered) > PART or max(covered) < WHOLE:
        return None
    larger = covered.index(min(covered))
    image = (known.pair.fixed, known.pair.moving)[larger]
    around = with_rim(there[larger])
    mask = resized(around.float(), image.shape[2:], align_corners) > 0.5
    return known.within(mask if larger == 0 else None, mask if larger == 1 else None)


def _constant(image: Tensor, voxels: Tensor, align_corners: bool) -> Map:
    """Every voxel of the image moved alike, (D,) voxels."""
    unit = voxels.to(image) / voxels_per_unit_of(image, align_corners).flatten()
    field = unit.view(1, -1, *[1] * len(unit)).expand(-1, -1, *image.shape[2:])
    return DisplacementMap(field, align_corners)


def alike(forward: Map, pair: Pair, align_corners: bool) -> bool:
    """Whether the images are of one contrast: what is brighter in one is brighter in the other.

    Behind the map, the means of one image over sixteenths of the other's foreground, by brightness,
    rise all along, both ways. Where T1 meets T2 or FLAIR they fall somewhere. Of several contrasts,
    all must.
    """
    fixed, moving = (intensities(image, 2) for image in (pair.fixed, pair.moving))
    points = forward.on_grid(fixed.shape[2:])
    warped = sample(moving, points, align_corners)
    shown = (fixed > FOREGROUND) & (warped > FOREGROUND) & pair.counting(points, align_corners)
    channels = zip(*(x.split(1, dim=1) for x in (fixed, warped, shown)), strict=True)
    values = [(a[both], b[both]) for a, b, both in channels]
    return min(min(_rising(a, b), _rising(b, a)) for a, b in values) > RISING


def _rising(values: Tensor, others: Tensor) -> float:
    """Share of the rises in all that the means of `others` rise and fall by; nan for few values."""
    parts = others[values.argsort()].tensor_split(PARTS)
    steps = torch.stack([part.mean() for part in parts]).diff()
    return float(steps.clamp_min(0).sum() / steps.abs().sum())


def evidence(forward: Map, known: Contexts, align_corners: bool) -> float:
    """How much less the self-similarities differ behind the map than behind maps a little beside
    it, as a share: about 0 where the match is by chance.

    Of the six maps beside, moved along an axis, the one that fits best counts. Images of any two
    contrasts can be judged so, since nothing is compared with another pair.
    """
    voxels = voxels_per_unit_of(known(known.pair.fixed, 2), align_corners)
    steps = torch.diag_embed((EVIDENCE_VOXELS / voxels).flatten()).view(-1, *voxels.shape)
    shifts = [sign * step for step in steps for sign in (1, -1)]
    beside = min(known.difference(forward, align_corners, shift) for shift in shifts)
    return 1 - known.difference(forward, align_corners) / max(beside, 1e-12)

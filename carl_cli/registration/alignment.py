"""Alignment of the network's maps on what looks alike in any two contrasts, and whether it holds.

The maps move down the squared difference of self-similarity channels (`contexts`, `diffeomorphic`).
Images of one contrast go on by their local correlation. There is nothing to learn here; all depends
on the content around a voxel, so it moves with the images.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from carl_cli.model.fields import DisplacementMap, Map, resized, sample, voxels_per_unit_of
from carl_cli.model.similarity import lncc, over_channels, squared_difference
from carl_cli.progress import Progress, silent
from carl_cli.registration.contexts import FOREGROUND, Contexts, Pair, brightest
from carl_cli.registration.diffeomorphic import (
    MIN_VOXELS,
    SCALES,
    Descent,
    Scale,
    intensities,
    refine,
)
from carl_cli.registration.masks import coarse_mask, with_rim
from carl_cli.registration.shift import best_shift

STAGE = "alignment"
SEARCHED, PART_SEARCHED = 0.4, 0.45  # of the time, about
COARSE, FINE = (Scale(4, 3, 1),), (Scale(2, 2, 1),)
THIN = 40  # voxels along an axis: halving leaves too few, so all of the grid is used as well
WINDOW = 2  # voxels: sigma of the local correlations
PARTS = 16  # of the foreground, by brightness
RISING = 0.97  # in images of one contrast; T1 and FLAIR: 0.94, T1 and T2: 0.65, inverted: 0
# Of a foreground, what the other one covers: so little, and nearly all of the other, for a part.
PART, WHOLE = 0.75, 0.93
CLEARLY = 0.9  # of the difference without a shift
EVIDENCE_VOXELS = 2  # by which a map is moved, at half of the grid, to see whether that matters

Maps = tuple[Map, Map]
Scales = tuple[Scale, ...]
LNCC = partial(lncc, sigma=WINDOW)


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
        squared_difference,
        rule.steps,
        rule.smoothing,
        rule.elasticity,
        channels=known.with_tissues,
        patches=True,
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
        by_contrast = over_channels(partial(LNCC, within=pair.masked), pair.channel_weights)
        similarity = known.beside_tissues(by_contrast)
        descent = Descent(similarity, rule.steps, rule.smoothing, channels=known.intensities)
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

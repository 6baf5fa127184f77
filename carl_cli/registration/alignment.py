"""Alignment of the network's maps on what looks alike in any two contrasts, and whether it holds.

Self-similarity channels (MIND-SSC; Heinrich et al., MICCAI 2013) tell where edges are, not which
side is brighter. They are computed once for each image and scale, one level finer than they are
compared, and the maps move down the squared difference between them (`diffeomorphic`). There is
nothing to learn here; all depends on the content around a voxel, so it moves with the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from carl_cli.model.fields import Map, sample, voxels_per_unit_of
from carl_cli.model.layers import pool
from carl_cli.model.similarity import local_correlation, self_similarity, squared_difference
from carl_cli.progress import Progress, silent
from carl_cli.registration.diffeomorphic import Channels, Descent, Scale, intensities, refine
from carl_cli.weights.folder import AlignmentRule

STAGE = "alignment"
SCALES = (Scale(4, 3, 1), Scale(2, 2, 1))
FULL = (Scale(1, 1, 1),)
ALIKE = 0.5  # of local correlations' strength: their mean, where the contrasts are alike
EVIDENCE_SCALE = 4
EVIDENCE_STEP = 2  # voxels at that scale, by which a map is moved to see whether it matters
LEAST_STRUCTURE = 1e-3  # variance inside a window of correlation, of intensities in [0, 1]


@dataclass(frozen=True)
class Pair:
    """Images (1, 1, *shape) in [0, 1] and masks (or None), on one device."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None


def contexts(image: Tensor, coarser: int, noise_floor: float) -> Tensor:
    """(1, 12, *shape / coarser): self-similarity one level finer than this scale, averaged."""
    if coarser == 1:
        return self_similarity(image, floor=noise_floor)
    return pool(self_similarity(intensities(image, coarser // 2), floor=noise_floor))


def channels_of(rule: AlignmentRule) -> Channels:
    return partial(contexts, noise_floor=rule.noise_floor)


def align(
    maps: tuple[Map, Map],
    pair: Pair,
    rule: AlignmentRule,
    align_corners: bool,
    progress: Progress = silent,
) -> tuple[Map, Map]:
    """Maps fixed → moving and moving → fixed near the given ones, aligned at a quarter and at half
    of the network's grid."""
    descent = Descent(
        squared_difference,
        rule.steps,
        rule.smoothing,
        rule.elasticity,
        SCALES,
        channels_of(rule),
    )
    forward, backward, _ = refine(
        maps,
        (pair.fixed, pair.moving),
        (pair.fixed_mask, pair.moving_mask),
        align_corners,
        descent,
        lambda share, loss: progress(STAGE, share, f"difference {loss:.4f}"),
    )
    return forward, backward


def alike(forward: Map, pair: Pair, align_corners: bool) -> bool:
    """Whether the images are of one contrast: where both have structure, their local correlations
    behind the map have one sign."""
    fixed, moving = (intensities(image, 2) for image in (pair.fixed, pair.moving))
    warped = sample(moving, forward.on_grid(fixed.shape[2:]), align_corners)
    correlation = local_correlation(fixed, warped, 2, LEAST_STRUCTURE)
    return bool(correlation.sum() > ALIKE * correlation.abs().sum())


def evidence(forward: Map, pair: Pair, rule: AlignmentRule, align_corners: bool) -> float:
    """Share of the self-similarity's difference that the map takes away, beside maps two coarse
    voxels off along each axis, in the fixed foreground: about 0 where the match is by chance.

    Any two contrasts can be judged so, since nothing is compared with another pair.
    """
    channels = channels_of(rule)
    fixed, moving = (channels(image, EVIDENCE_SCALE) for image in (pair.fixed, pair.moving))
    shown = intensities(pair.fixed, EVIDENCE_SCALE) > 0.05
    phi = forward.on_grid(fixed.shape[2:])

    def difference(points: Tensor) -> float:
        return float(squared_difference(sample(moving, points, align_corners), fixed, shown))

    step = EVIDENCE_STEP / voxels_per_unit_of(phi, align_corners)
    directions = torch.eye(phi.shape[1], dtype=phi.dtype, device=phi.device)
    shifts = [
        sign * d.view(1, -1, *[1] * phi.shape[1]) * step for d in directions for sign in (1, -1)
    ]
    beside = sum(difference(phi + shift) for shift in shifts) / len(shifts)
    return 1 - difference(phi) / max(beside, 1e-12)

"""Alignment of the network's maps on what looks alike in any two contrasts, and whether it holds.

Self-similarity channels (MIND-SSC; Heinrich et al., MICCAI 2013) tell where edges are, not which
side is brighter. They are computed once for each image and scale, one level finer than they are
compared, and the maps move down the squared difference between them (`diffeomorphic`). There is
nothing to learn here; all depends on the content around a voxel, so it moves with the images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from carl_cli.model.fields import DisplacementMap, Map, sample, voxels_per_unit_of
from carl_cli.model.layers import pool
from carl_cli.model.similarity import lncc, local_correlation, self_similarity, squared_difference
from carl_cli.progress import Progress, silent
from carl_cli.registration.diffeomorphic import Channels, Descent, Scale, intensities, refine
from carl_cli.weights.folder import AlignmentRule

STAGE = "alignment"
COARSE, FINE = (Scale(4, 3, 1),), (Scale(2, 2, 1),)
INTENSITY = (Scale(2, 1, 7 / 8),)
WINDOW = 2  # voxels: sigma of the local correlations
LEAST_STRUCTURE = 1e-3  # variance inside such a window, of intensities in [0, 1]
ALIKE = 0.8  # share of the correlations' strength that has one sign, in images of one contrast
FOREGROUND = 0.05
EVIDENCE_VOXELS = 2  # by which a map is moved, at half of the grid, to see whether that matters

Maps = tuple[Map, Map]
Scales = tuple[Scale, ...]
LNCC = partial(lncc, sigma=WINDOW)


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
    maps: Maps, pair: Pair, rule: AlignmentRule, align_corners: bool, progress: Progress = silent
) -> Maps:
    """Maps fixed → moving and moving → fixed near the given ones.

    A quarter of the network's grid is searched from the given maps and from the identity, which
    brings the foregrounds' middles together; the better one goes on at half of the grid. Images
    of one contrast are aligned there by their local correlation, too.
    """
    by_context = Descent(
        squared_difference,
        rule.steps,
        rule.smoothing,
        rule.elasticity,
        channels=channels_of(rule),
    )

    def moved(start: Maps, descent: Descent, scales: Scales) -> tuple[Map, Map, list[float]]:
        images, masks = (pair.fixed, pair.moving), (pair.fixed_mask, pair.moving_mask)
        return refine(start, images, masks, align_corners, replace(descent, scales=scales), told)

    def told(share: float, loss: float) -> None:
        progress(STAGE, share, f"difference {loss:.4f}")

    starts = (maps, _identities(pair, align_corners))
    coarse = [moved(start, by_context, COARSE) for start in starts]
    forward, backward, _ = min(coarse, key=lambda found: found[2][-1])
    forward, backward, _ = moved((forward, backward), by_context, FINE)
    if alike(forward, pair, align_corners):
        by_intensity = replace(by_context, similarity=LNCC, channels=intensities)
        forward, backward, _ = moved((forward, backward), by_intensity, INTENSITY)
    return forward, backward


def _identities(pair: Pair, align_corners: bool) -> Maps:
    fixed, moving = (torch.zeros_like(image[:, :1]) for image in (pair.fixed, pair.moving))
    dimension = fixed.dim() - 2
    return (
        DisplacementMap(fixed.expand(-1, dimension, *fixed.shape[2:]), align_corners),
        DisplacementMap(moving.expand(-1, dimension, *moving.shape[2:]), align_corners),
    )


def alike(forward: Map, pair: Pair, align_corners: bool) -> bool:
    """Whether the images are of one contrast: in the fixed foreground, where both have structure,
    their local correlations behind the map have one sign."""
    fixed, moving = (intensities(image, 2) for image in (pair.fixed, pair.moving))
    warped = sample(moving, forward.on_grid(fixed.shape[2:]), align_corners)
    correlation = local_correlation(fixed, warped, WINDOW, LEAST_STRUCTURE)
    correlation = correlation[fixed > FOREGROUND]
    return bool(correlation.sum() > ALIKE * correlation.abs().sum())


def evidence(forward: Map, pair: Pair, rule: AlignmentRule, align_corners: bool) -> float:
    """How much less the self-similarities differ behind the map than behind maps a little beside
    it, as a share: about 0 where the match is by chance.

    In the fixed foreground at half of the network's grid; of the six maps beside, moved along an
    axis, the one that fits best counts. Images of any two contrasts can be judged so, since
    nothing is compared with another pair.
    """
    channels = channels_of(rule)
    fixed, moving = (channels(image, 2) for image in (pair.fixed, pair.moving))
    shown = intensities(pair.fixed, 2) > FOREGROUND
    phi = forward.on_grid(fixed.shape[2:])

    def difference(points: Tensor) -> float:
        return float(squared_difference(sample(moving, points, align_corners), fixed, shown))

    dimension = phi.shape[1]
    axes = torch.eye(dimension, dtype=phi.dtype, device=phi.device) * EVIDENCE_VOXELS
    axes = axes.view(dimension, 1, dimension, *[1] * dimension)
    steps = axes / voxels_per_unit_of(phi, align_corners)
    beside = min(difference(phi + sign * step) for step in steps for sign in (1, -1))
    return 1 - difference(phi) / max(beside, 1e-12)

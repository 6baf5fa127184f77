"""The self-similarity channels of a pair, computed once for each image and scale.

MIND-SSC (Heinrich et al., MICCAI 2013) tells where edges are, not which side is brighter. The
channels are computed one level finer than they are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from carl_cli.model.fields import Map, resized, sample
from carl_cli.model.layers import pool, pooled
from carl_cli.model.similarity import Similarity, self_similarity, squared_difference
from carl_cli.registration.diffeomorphic import intensities
from carl_cli.registration.guides import Guide
from carl_cli.registration.masks import coarse_mask
from carl_cli.registration.sides import inside
from carl_cli.weights.folder import AlignmentRule

FOREGROUND = 0.05  # of the brightness
# Weights of the tissues' squared difference beside a correlation, and beside the sum of that of
# the self-similarities.
BESIDE_CORRELATION, BESIDE_SIMILARITIES = 1.0, 2.0


@dataclass(frozen=True)
class Pair:
    """Images (1, C, *shape) in [0, 1], of C contrasts in one space, and masks (1, 1, *shape) or
    None, on one device. channel_weights: of the contrasts; they add up to 1."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    channel_weights: tuple[float, ...] = (1.0,)
    voxel_ml: tuple[float, float] = (0.0, 0.0)  # of the fixed and the moving image
    guides: tuple[Guide, Guide] | None = None  # of the fixed and the moving side

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


def _at_scale(halved: Tensor, image: Tensor, coarser: int) -> Tensor:
    """Channels that are known at half of the grid, at this scale of the image."""
    if coarser > 1:
        return pooled(halved, coarser // 2)
    return resized(halved, image.shape[2:], False)


class Contexts:
    """The channels of a pair, computed once for each image and scale."""

    def __init__(
        self, pair: Pair, rule: AlignmentRule, tissues: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.pair, self.rule, self.tissues = pair, rule, tissues
        self._known: dict[tuple[int, int], Tensor] = {}

    def __call__(self, image: Tensor, coarser: int) -> Tensor:
        """Self-similarities at a scale."""
        key = (image.data_ptr(), coarser)
        if key not in self._known:
            weights = self.pair.channel_weights
            self._known[key] = all_contexts(image, coarser, self.rule.noise_floor, weights)
        return self._known[key]

    def with_tissues(self, image: Tensor, coarser: int) -> Tensor:
        """Those and the tissues, if there are any: the mean over all channels of their squared
        differences is the self-similarities' own mean, and the tissues' beside it."""
        own = self(image, coarser)
        if self.tissues is None:
            return own
        tissues = BESIDE_SIMILARITIES**0.5 * self._tissues_of(image, coarser)
        channels = torch.cat([own, tissues], dim=1)
        return channels * (channels.shape[1] / own.shape[1]) ** 0.5

    def intensities(self, image: Tensor, coarser: int) -> Tensor:
        """The contrasts, and the tissues behind them, if there are any."""
        own = intensities(image, coarser)
        if self.tissues is None:
            return own
        return torch.cat([own, self._tissues_of(image, coarser)], dim=1)

    def beside_tissues(self, by_contrast: Similarity) -> Similarity:
        """For what `intensities` gives: of the contrasts as it is, and of the tissues the squared
        difference beside it."""
        if self.tissues is None:
            return by_contrast
        contrasts = len(self.pair.channel_weights)

        def similarity(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
            own = by_contrast(a[:, :contrasts], b[:, :contrasts], mask)
            first, second = a[:, contrasts:], b[:, contrasts:]
            return own + BESIDE_CORRELATION * first.shape[1] * squared_difference(
                first, second, mask
            )

        return similarity

    def _tissues_of(self, image: Tensor, coarser: int) -> Tensor:
        assert self.tissues is not None
        key = (-image.data_ptr(), coarser)
        if key not in self._known:
            fixed = image.data_ptr() == self.pair.fixed.data_ptr()
            self._known[key] = _at_scale(self.tissues[0 if fixed else 1], image, coarser)
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
            self.tissues,
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

"""Ξ, coordinate attention, and window attention, which looks near by with the same encoder.

Ξ is [W, U]-equivariant to translations by construction (paper: Sec. 4 and Fig. 2; the proof is
Eq. 10): a convolutional encoder moves its features along with either image, and a mean position
moves along with the positions that it is a mean of.

Suffixes: B batch, C channels of a feature, D dimension, N queries (fixed voxels), M keys (moving
voxels, with a margin around them), x the shape of a grid.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from carl_cli.model.encoder import Encoder
from carl_cli.model.fields import (
    DisplacementMap,
    Map,
    Shape,
    cut,
    identity,
    resized,
    voxels_per_unit,
    voxels_per_unit_of,
)
from carl_cli.model.kernels.attention import mean_and_spread
from carl_cli.model.kernels.window import window_offset
from carl_cli.model.operators import Registrar
from carl_cli.model.parallel import both
from carl_cli.model.smoothing import smooth_by_confidence


class CoordinateAttention(Registrar):
    """Ξ: each fixed voxel goes to the softmax-weighted mean position of the moving voxels.

    Images (B, C, *shape) → a map whose displacement and spread lie on (B, D, *coarse shape),
    the shape that the encoder leaves of the images'. (Paper: Fig. 2.)
    """

    def __init__(
        self,
        encoder: Encoder,
        padding: int,
        align_corners: bool,
        smoothing: int = 0,
        sharpness: float = 1.0,
        halvings: int = 0,
        map_kind: type[DisplacementMap] = DisplacementMap,
        query_stride: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        # Voxels of zeros around both images. The fixed image's features are cropped back; the
        # moving image's margin stays, so that points outside of it can be reached.
        self.padding = padding
        self.margin = padding // 2**halvings  # of the features, in their voxels
        self.align_corners = align_corners
        # Width in feature voxels of the Gaussian that makes the field regular where the match is
        # unsure; the paper: 0.
        self.smoothing = smoothing
        # A factor of the logits; the paper: 1. A network that was trained briefly is unsure, and
        # the mean of an unsure row lies too near the middle of the image: more corrects that.
        self.sharpness = sharpness
        self.map_kind = map_kind
        # Of the fixed voxels that are matched along each axis; between them the field is linear.
        # The paper: 1. With 2 an eighth of the work is left, and shifts of the fixed image by an
        # odd number of voxels are no longer followed exactly.
        self.query_stride = query_stride
        # Of images with more channels than the encoder has; they add up to 1. None: all alike.
        self.channel_weights: tuple[float, ...] | None = None

    def forward(self, fixed: Tensor, moving: Tensor) -> DisplacementMap:
        return self._match(self.features(fixed), self.features(moving))

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        device = fixed.device
        a, b = both(partial(self.features, fixed), partial(self.features, moving), device)
        return both(partial(self._match, a, b), partial(self._match, b, a), device)

    def features(self, image: Tensor) -> Tensor:
        """(B, width, *(shape / 2^halvings + 2 margin)) features, the margin included.

        Of several contrasts in one space, each is encoded by itself and times the root of its
        weight: a product of such features is the weighted mean of the contrasts' logits.
        """
        padded = pad(image, [self.padding] * 2 * (image.dim() - 2))
        if image.shape[1] == self.encoder.channels:
            features: Tensor = self.encoder(padded)
            return features
        parts = padded.split(self.encoder.channels, dim=1)
        weights = self.channel_weights or (1 / len(parts),) * len(parts)
        pairs = zip(parts, weights, strict=True)
        return torch.cat([w**0.5 * self.encoder(part) for part, w in pairs], dim=1)

    def _match(self, fixed_features: Tensor, moving_features: Tensor) -> DisplacementMap:
        shape = self._inner_shape(fixed_features)
        grid = identity(shape, self.align_corners, fixed_features.device)
        phi, spread = self._mean_and_spread(fixed_features, moving_features)
        found = phi - self._matched(grid), spread
        u, spread = (_between(x, shape, self.query_stride) for x in found)
        if self.smoothing:
            u = _smoothed(u, spread, self.smoothing, self.align_corners)
        return self.map_kind(u, self.align_corners, spread)

    def _mean_and_spread(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Mean in unit coordinates and standard deviation in voxels, both (B, D, *matched)."""
        crop = slice(self.margin, -self.margin or None)
        queries = self._matched(cut(fixed, [crop] * (fixed.dim() - 2)))
        rows = self.sharpness * _rows(queries), _rows(moving)
        mean, spread = mean_and_spread(*rows, moving.shape[2:])
        matched = queries.shape[2:]
        return _on_grid(self._unit_coordinates(mean, moving), matched), _on_grid(spread, matched)

    def _unit_coordinates(self, index_BND: Tensor, moving: Tensor) -> Tensor:
        """(B, N, D): from indices of the padded moving array to the moving image's units."""
        first = self.margin if self.align_corners else self.margin - 0.5
        voxels = voxels_per_unit(self._inner_shape(moving), self.align_corners)
        return (index_BND - first) / voxels.to(index_BND)

    def _matched(self, values: Tensor) -> Tensor:
        """(B, C, *shape) → (B, C, *matched): at the fixed voxels that ask."""
        return cut(values, [slice(None, None, self.query_stride)] * (values.dim() - 2))

    def _inner_shape(self, features: Tensor) -> tuple[int, ...]:
        return tuple(n - 2 * self.margin for n in features.shape[2:])


def _rows(features: Tensor) -> Tensor:
    """(B, C, *shape) → (B, N, C)."""
    return features.flatten(2).transpose(1, 2).contiguous()


def _between(matched: Tensor, shape: Shape, stride: int) -> Tensor:
    """Values (B, C, *matched) of every stride-th voxel from the first on → (B, C, *shape): linear
    between them, the last ones continued."""
    if stride == 1:
        return matched
    reached = [stride * (n - 1) + 1 for n in matched.shape[2:]]
    beyond = [n - r for n, r in zip(shape, reached, strict=True)]
    ends = [side for n in reversed(beyond) for side in (0, n)]
    return pad(resized(matched, reached, align_corners=True), ends, mode="replicate")


def _on_grid(values_BND: Tensor, shape: Shape) -> Tensor:
    """(B, N, D) → (B, D, *shape)."""
    return values_BND.transpose(1, 2).reshape(values_BND.shape[0], -1, *shape)


def _smoothed(u_BDx: Tensor, spread_BDx: Tensor, sigma: int, align_corners: bool) -> Tensor:
    """A displacement in unit coordinates made regular where the spread (voxels) is large."""
    voxels = voxels_per_unit_of(u_BDx, align_corners)
    places = identity(u_BDx.shape[2:], align_corners, u_BDx.device) * voxels
    smooth = smooth_by_confidence(u_BDx * voxels, spread_BDx, places.expand_as(u_BDx), sigma)
    return smooth / voxels


class WindowAttention(Registrar):
    """Coordinate attention within a window, for images that nearly match already.

    Looks with the encoder of a CoordinateAttention, without parameters of its own, at images
    that are finer than those Ξ sees: (B, C, *shape) → a map on (B, D, *shape). Not in the paper.
    """

    def __init__(
        self, attention: CoordinateAttention, radius: int, sharpness: float, smoothing: int
    ) -> None:
        super().__init__()
        self._borrowed = (attention,)  # in a tuple: its parameters are counted once, with Ξ
        self.radius = radius  # voxels, of the window of (2 radius + 1)^D
        self.sharpness = sharpness  # a factor of the logits
        self.smoothing = smoothing  # where the match is unsure, in voxels

    def forward(self, fixed: Tensor, moving: Tensor) -> DisplacementMap:
        (attention,) = self._borrowed
        features, margin = attention.features(fixed), attention.margin
        shape = tuple(n - 2 * margin for n in features.shape[2:])
        inner = [slice(margin, margin + n) for n in shape]
        around = [slice(margin - self.radius, margin + n + self.radius) for n in shape]
        queries = self.sharpness * cut(features, inner)
        keys = cut(attention.features(moving), around)
        offset, spread = window_offset(queries.contiguous(), keys, self.radius)
        u = offset / voxels_per_unit_of(offset, attention.align_corners)
        if self.smoothing:
            u = _smoothed(u, spread, self.smoothing, attention.align_corners)
        return attention.map_kind(u, attention.align_corners)

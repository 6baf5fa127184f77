"""Ξ: coordinate attention, [W, U]-equivariant by construction (Sec. 4.2, 5.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from carl_cli.model.encoder import Encoder
from carl_cli.model.fields import DisplacementMap, Map, Shape, cut, identity, voxels_per_unit
from carl_cli.model.kernels.attention import mean_and_spread
from carl_cli.model.kernels.window import window_offset
from carl_cli.model.operators import Registrar
from carl_cli.model.smoothing import smooth_by_confidence


class CoordinateAttention(Registrar):
    """Each fixed voxel goes to the softmax-weighted mean position of the moving voxels.

    Both images are zero-padded by `padding` voxels before the encoder, which makes a `margin`
    of its features. The fixed image's features are cropped back; the moving image's margin
    stays, so that points outside of it can be reached. smoothing > 0: the field is made
    regular where the match is unsure, by a Gaussian of that many voxels; 0 is the paper.
    sharpness scales the logits; 1 is the paper. A network that was trained briefly is unsure,
    and the mean of an unsure row lies too near the middle of the image: a greater sharpness
    corrects that bias. halvings: of the encoder.
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
    ) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.encoder = encoder
        self.padding = padding
        self.margin = padding // 2**halvings
        self.map_kind = map_kind
        self.smoothing = smoothing
        self.align_corners = align_corners

    def forward(self, fixed: Tensor, moving: Tensor) -> DisplacementMap:
        return self._match(self.features(fixed), self.features(moving))

    def both_directions(self, fixed: Tensor, moving: Tensor) -> tuple[Map, Map]:
        a, b = self.features(fixed), self.features(moving)
        return self._match(a, b), self._match(b, a)

    def features(self, image: Tensor) -> Tensor:
        """(B, width, *(shape / 2^halvings + 2 margin)) features, the margin included."""
        features: Tensor = self.encoder(pad(image, [self.padding] * 2 * (image.dim() - 2)))
        return features

    def _match(self, fixed_features: Tensor, moving_features: Tensor) -> DisplacementMap:
        shape = self._inner_shape(fixed_features)
        grid = identity(shape, self.align_corners, fixed_features.device)
        phi, spread = self._mean_and_spread(fixed_features, moving_features)
        if not self.smoothing:
            return self.map_kind(phi - grid, self.align_corners, spread)
        voxels = self._voxels_per_unit(shape, phi.device)
        moved = (phi - grid) * voxels
        smooth = smooth_by_confidence(
            moved, spread, (grid * voxels).expand_as(moved), self.smoothing
        )
        return self.map_kind(smooth / voxels, self.align_corners, spread)

    def _mean_and_spread(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Mean in unit coordinates and standard deviation in voxels, both (B, D, *shape)."""
        shape = self._inner_shape(fixed)
        mean, spread = mean_and_spread(*self._attention_inputs(fixed, moving))
        return _on_grid(self._unit_coordinates(mean, moving), shape), _on_grid(spread, shape)

    def _unit_coordinates(self, index_BND: Tensor, moving: Tensor) -> Tensor:
        """(B, N, D): from indices of the padded moving array to the moving image's units."""
        first = self.margin if self.align_corners else self.margin - 0.5
        voxels = voxels_per_unit(self._inner_shape(moving), self.align_corners)
        return (index_BND - first) / voxels.to(index_BND)

    def _voxels_per_unit(self, shape: Shape, device: torch.device) -> Tensor:
        voxels = voxels_per_unit(shape, self.align_corners).to(device)
        return voxels.view(1, -1, *[1] * len(shape))

    def _attention_inputs(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor, Shape]:
        """Queries (B, N, C), keys (B, M, C) and the shape of the array of keys."""
        crop = slice(self.margin, -self.margin or None)
        queries = cut(fixed, [crop] * (fixed.dim() - 2)).flatten(2).transpose(1, 2)
        keys = moving.flatten(2).transpose(1, 2)
        return self.sharpness * queries.contiguous(), keys.contiguous(), moving.shape[2:]

    def _inner_shape(self, features: Tensor) -> tuple[int, ...]:
        return tuple(n - 2 * self.margin for n in features.shape[2:])


def _on_grid(values_BND: Tensor, shape: Shape) -> Tensor:
    """(B, N, D) → (B, D, *shape)."""
    return values_BND.transpose(1, 2).reshape(values_BND.shape[0], -1, *shape)


class WindowAttention(Registrar):
    """Λ: coordinate attention within a window, for images that nearly match already.

    Looks with the encoder of a CoordinateAttention, without parameters of its own, at images
    that are finer than those Ξ sees. radius of the window in voxels; sharpness and smoothing
    as there.
    """

    def __init__(
        self, attention: CoordinateAttention, radius: int, sharpness: float, smoothing: int
    ) -> None:
        super().__init__()
        self._borrowed = (attention,)  # in a tuple: its parameters are counted once, with Ξ
        self.radius = radius
        self.sharpness = sharpness
        self.smoothing = smoothing

    def forward(self, fixed: Tensor, moving: Tensor) -> DisplacementMap:
        (attention,) = self._borrowed
        shape, margin = fixed.shape[2:], attention.margin
        inner = [slice(margin, margin + n) for n in shape]
        around = [slice(margin - self.radius, margin + n + self.radius) for n in shape]
        queries = self.sharpness * cut(attention.features(fixed), inner)
        keys = cut(attention.features(moving), around)
        offset, spread = window_offset(queries.contiguous(), keys, self.radius)
        voxels = voxels_per_unit(shape, attention.align_corners).to(fixed)
        voxels = voxels.view(1, -1, *[1] * len(shape))
        if self.smoothing:
            grid = identity(shape, attention.align_corners, fixed.device) * voxels
            offset = smooth_by_confidence(offset, spread, grid.expand_as(offset), self.smoothing)
        return attention.map_kind(offset / voxels, attention.align_corners)

"""Ψ: the U-Net of GradICON that predicts a displacement field (the authors' "tallUNet2").

[U, U]-equivariant, by its strides (Eq. 12 and 13 of the paper), and so a refinement layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from carl_cli.model.execution import HeavyModule
from carl_cli.model.fields import DisplacementMap
from carl_cli.model.layers import batch_norm, conv, conv_transpose, fit_channels, pool, upsample
from carl_cli.model.operators import Registrar

OUTPUT_SCALE = 0.1  # a small first guess: training starts at the identity


class DisplacementUNet(HeavyModule, Registrar):
    """Residual U-Net on (moving, fixed) stacked as channels: (B, C, *shape) each → a map whose
    displacement lies on (B, D, *shape).

    down: channels after each halving; up: channels after each doubling, finest first.
    The last layer starts at zero, so an untrained network is the identity map.
    """

    def __init__(
        self,
        dimension: int,
        channels: int,
        down: Sequence[int],
        up: Sequence[int],
        align_corners: bool,
        map_kind: type[DisplacementMap] = DisplacementMap,
    ) -> None:
        super().__init__()
        self.map_kind = map_kind
        self.align_corners = align_corners
        inputs = [2 * channels, *down]
        below = [*up[1:], 0]  # what the coarser level hands up beside its skip
        self.downs = nn.ModuleList(
            conv(dimension, a, b, stride=2) for a, b in zip(inputs, down, strict=False)
        )
        self.ups = nn.ModuleList(
            conv_transpose(dimension, d + b, u) for d, b, u in zip(down, below, up, strict=True)
        )
        self.norms = nn.ModuleList(batch_norm(dimension, u) for u in up)
        self.last = conv(dimension, inputs[0] + up[0], dimension)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, fixed: Tensor, moving: Tensor) -> DisplacementMap:
        return self.map_kind(self.executed(fixed, moving), self.align_corners)

    def compute(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """(B, D, *shape) displacement in unit coordinates."""
        x = torch.cat([moving, fixed], dim=1)
        skips = []
        for layer in self.downs:
            skips.append(x)
            y = layer(leaky_relu(x))
            x = y + fit_channels(pool(x), y.shape[1])
        for layer, norm in zip(reversed(self.ups), reversed(self.norms), strict=True):
            x = self._rise(x, layer, norm, skips.pop())
        return self.last(x) * OUTPUT_SCALE

    def _rise(self, x: Tensor, layer: nn.Module, norm: nn.Module, skip: Tensor) -> Tensor:
        y = layer(leaky_relu(x))
        x = norm(y + upsample(fit_channels(x, y.shape[1])))
        same_shape = (slice(None), slice(None), *(slice(n) for n in skip.shape[2:]))
        return torch.cat([x[same_shape], skip], dim=1)

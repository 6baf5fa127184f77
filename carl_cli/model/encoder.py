"""Conv_θ: the translation-equivariant encoder of Ξ (Sec. 4, Eq. 7).

The paper's works at one resolution. uniCARL's halves it twice first and doesn't dilate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from carl_cli.model.execution import HeavyModule
from carl_cli.model.kernels.attention import MAX_NORM
from carl_cli.model.layers import batch_norm, conv, pair_conv, pool
from carl_cli.model.similarity import neighbour_pairs, self_similarity

Stem = Literal["intensity", "mind"]

HALF_TURNS = ((2, 3), (3, 4), (2, 4))  # axes of (B, C, z, y, x) that a turn by 180° mirrors


class Encoder(HeavyModule):
    """First convolution (or HalvingStem, MindStem), then residual blocks of dilated convolutions.

    Image (B, channels, *shape) → features (B, width, *shape / 2^halvings) of length at most
    4, so that logits of two features are bounded by 16.
    """

    def __init__(
        self,
        dimension: int,
        channels: int,
        width: int,
        blocks: int,
        dilations: Sequence[int] = (1, 2, 4),
        halvings: int = 0,
        stem: Stem = "intensity",
        half_turns: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.width, self.halvings = channels, width, halvings
        self.turned_axes = HALF_TURNS if half_turns else ()
        self.stem: nn.Module
        if stem == "mind":
            self.stem = MindStem(dimension, width)
        elif halvings:
            self.stem = HalvingStem(dimension, channels, width, halvings)
        else:
            self.stem = conv(dimension, channels, width)
        self.blocks = nn.ModuleList(Block(dimension, width, dilations) for _ in range(blocks))

    def forward(self, image: Tensor) -> Tensor:
        return self.executed(image)

    def compute(self, image: Tensor) -> Tensor:
        x = self._responses(image)
        for axes in self.turned_axes:
            x = x + self._responses(image.flip(axes)).flip(axes)
        x = x.float() / (1 + len(self.turned_axes))  # lengths need more bits than bfloat16 has
        return MAX_NORM * x / (0.001 + torch.linalg.vector_norm(x, dim=1, keepdim=True))

    def _responses(self, image: Tensor) -> Tensor:
        x = torch.relu(self.stem(image))
        for block in self.blocks:
            x = block(x)
        return x


class MindStem(nn.Module):
    """MIND-SSC channels of an image, averaged over blocks of two voxels, then a convolution.

    (B, 1, *shape) → (B, width, *shape / 2), rounded up. The channels tell where edges are, not
    which side is brighter, so what follows sees much the same of two contrasts.
    """

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.conv = conv(dimension, len(neighbour_pairs(dimension)), width)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            channels = pool(self_similarity(x))
        y: Tensor = self.conv(channels)
        return y


class HalvingStem(nn.Module):
    """2-wide convolutions (a zero after the last voxel), each followed by a mean over blocks
    of two voxels.

    (B, channels, *shape) → (B, width, *shape / 2^halvings), rounded up; the channels grow
    fourfold from one to the next.
    """

    def __init__(self, dimension: int, channels: int, width: int, halvings: int) -> None:
        super().__init__()
        widths = [channels, *(width // 4**k for k in reversed(range(halvings)))]
        self.convs = nn.ModuleList(pair_conv(dimension, a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.convs:
            x = pool(layer(pad(x, [0, 1] * (x.dim() - 2))))
        return x


class Block(HeavyModule):
    """Batch norm, then one convolution for each dilation, added to their input."""

    def __init__(self, dimension: int, width: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.norm = batch_norm(dimension, width)
        self.convs = nn.ModuleList(conv(dimension, width, width, dilation=d) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        return self.executed(x)

    def compute(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y = self.convs[0](x)
        for layer in self.convs[1:]:
            y = layer(torch.relu(y))
        return x + y

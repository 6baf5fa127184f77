"""Conv_θ: the translation-equivariant encoder of Ξ (Sec. 5.1), at one resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carl_cli.kernels.attention import MAX_NORM
from carl_cli.model.layers import batch_norm, conv

DILATIONS = (1, 2, 4)


class Encoder(nn.Module):
    """First convolution, then residual blocks of three dilated convolutions.

    Image (B, channels, *shape) → features (B, width, *shape) of length at most 4, so that
    logits of two features are bounded by 16.
    """

    def __init__(self, dimension: int, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = conv(dimension, channels, width)
        self.blocks = nn.ModuleList(Block(dimension, width) for _ in range(blocks))

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.stem(image))
        for block in self.blocks:
            x = block(x)
        return MAX_NORM * x / (0.001 + torch.linalg.vector_norm(x, dim=1, keepdim=True))


class Block(nn.Module):
    """Batch norm, then three convolutions with growing dilation, added to their input."""

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.norm = batch_norm(dimension, width)
        self.convs = nn.ModuleList(conv(dimension, width, width, dilation=d) for d in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y = self.convs[0](x)
        for layer in self.convs[1:]:
            y = layer(torch.relu(y))
        return x + y

"""Which tissue of the brain a voxel is, in any contrast: a U-Net on self-similarity channels.

It sees where edges are and not which side is brighter, so a T1 and a T2 of one person look nearly
alike to it. Everything depends on the content around a voxel, so it moves with the images. Not in
the paper: alignment compares the shares of the tissues beside the self-similarities
(`registration.alignment`).

Suffixes: B batch, C channels, K classes, x the shape of the image, h of its half.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, layer_norm, leaky_relu, pad

from carl_cli.model.execution import HeavyModule
from carl_cli.model.fields import cut
from carl_cli.model.similarity import self_similarity

MULTIPLE = 8  # of voxels along each axis: packed once, halved twice
BLOCK = 8  # voxels of a block of two along each axis
LEAK = 0.1
SLAB = 4  # blocks

Width = Annotated[int, Field(ge=1, le=1024)]


class TissueConfig(BaseModel):
    """classes: the first is air, the second all that is neither air nor brain."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    classes: Annotated[tuple[str, ...], Field(min_length=3, max_length=256)]
    widths: tuple[Width, Width, Width] = (56, 88, 128)  # at a half, a quarter, an eighth
    noise_floor: Annotated[float, Field(gt=0)] = 2e-3  # of squared differences: below is noise


class TissueNetwork(HeavyModule):
    """Images (B, 1, *shape) in [0, 1], 3D → shares (B, K, *shape / 2)."""

    channels = 12  # of self-similarity

    def __init__(self, config: TissueConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third = config.widths
        self.stem = nn.Conv3d(BLOCK * self.channels, first, 3, padding=1)
        self.first = _Residual(first)
        self.halve_first = nn.Conv3d(first, second, 2, stride=2)
        self.second = nn.Sequential(_Residual(second), _Residual(second))
        self.halve_second = nn.Conv3d(second, third, 2, stride=2)
        self.third = nn.Sequential(_Residual(third), _Residual(third, 2), _Residual(third))
        self.narrow_third = nn.Conv3d(third, second, 1)
        self.back_second = _Residual(second)
        self.narrow_second = nn.Conv3d(second, first, 1)
        self.back_first = nn.Sequential(_Residual(first), _Residual(first))
        self.norm = _VoxelNorm(first)
        self.last = nn.Conv3d(first, BLOCK * len(config.classes), 1)

    def forward(self, image_B1x: Tensor) -> Tensor:
        """Shares of the classes, which add up to 1: the mean over the voxels of a block, as
        `layers.pool` has it."""
        spare = [n for size in image_B1x.shape[:1:-1] for n in (0, -size % MULTIPLE)]
        low = self.execution.bfloat16
        logits = self.logits(self_similar(pad(image_B1x, spare), self.config, low))
        # Slab by slab: all shares of all voxels would be the largest array of a registration.
        slabs = logits.unflatten(1, (-1, BLOCK)).split(SLAB, dim=3)
        shares = torch.cat([slab.softmax(1).mean(2) for slab in slabs], dim=2)
        return cut(shares, [slice(0, -(-n // 2)) for n in image_B1x.shape[2:]])

    def logits(self, packed_BCh: Tensor) -> Tensor:
        """(B, 8 K, *shape / 2) of packed self-similarities, K slowest."""
        return self.executed(packed_BCh)

    def compute(self, packed_BCh: Tensor) -> Tensor:
        return self.told(self.decoded(packed_BCh)[0])

    def decoded(self, packed_BCh: Tensor) -> tuple[Tensor, Tensor]:
        """Features at a half and at a quarter of the grid."""
        first = self.first(self.stem(2 * packed_BCh - 1))
        second = self.second(self.halve_first(first))
        third = self.third(self.halve_second(second))
        second = self.back_second(second + _enlarged(self.narrow_third(third), second))
        return self.back_first(first + _enlarged(self.narrow_second(second), first)), second

    def told(self, first_BCh: Tensor) -> Tensor:
        """Logits of features at a half of the grid."""
        logits: Tensor = self.last(leaky_relu(self.norm(first_BCh), LEAK))
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm = _VoxelNorm(width)
        self.widen = nn.Conv3d(width, width, 3, padding=dilation, dilation=dilation)
        self.add = nn.Conv3d(width, width, 3, padding=1)
        nn.init.zeros_(self.add.weight)
        assert self.add.bias is not None
        nn.init.zeros_(self.add.bias)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.add(leaky_relu(self.widen(self.norm(x)), LEAK))
        return x + added


class _VoxelNorm(nn.Module):
    """Over the channels of each voxel: a wider field of view changes nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BCx: Tensor) -> Tensor:
        last = x_BCx.movedim(1, -1)
        parameters = self.weight.to(last.dtype), self.bias.to(last.dtype)
        return layer_norm(last, last.shape[-1:], *parameters, eps=1e-4).movedim(-1, 1)


def self_similar(image_B1x: Tensor, config: TissueConfig, low: bool = False) -> Tensor:
    """(B, 8 · 12, *shape / 2): the channels that the network sees, eight voxels as one.

    low: in bfloat16, half of the memory, for a network that multiplies with it.
    """
    channels = self_similarity(image_B1x, floor=config.noise_floor)
    return packed(channels.bfloat16() if low else channels)


def packed(values_BCx: Tensor) -> Tensor:
    """(B, 8 C, *shape / 2): the eight voxels of each block as channels, C slowest."""
    b, c, *shape = values_BCx.shape
    z, y, x = (n // 2 for n in shape)
    blocks = values_BCx.reshape(b, c, z, 2, y, 2, x, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return blocks.reshape(b, BLOCK * c, z, y, x)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, size=like.shape[2:], mode="trilinear", align_corners=False)

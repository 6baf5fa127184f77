"""Layers whose class depends on the dimension (2 or 3), chosen once."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def conv(
    dimension: int, inputs: int, outputs: int, dilation: int = 1, stride: int = 1
) -> nn.Module:
    """3-wide convolution; zero padding keeps the shape at stride 1."""
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
    return layer(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation)


def pair_conv(dimension: int, inputs: int, outputs: int) -> nn.Module:
    """2-wide convolution of each voxel with the next one: one voxel less along each axis."""
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
    return layer(inputs, outputs, 2)


def conv_transpose(dimension: int, inputs: int, outputs: int) -> nn.Module:
    """4-wide transposed convolution of stride 2: doubles the shape."""
    layer = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimension]
    return layer(inputs, outputs, 4, stride=2, padding=1)


def batch_norm(dimension: int, width: int) -> nn.Module:
    return {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimension](width)


def pool(x: Tensor) -> Tensor:
    """Mean over blocks of two voxels along each axis; a last odd voxel stands alone."""
    pooling = {4: functional.avg_pool2d, 5: functional.avg_pool3d}[x.dim()]
    return pooling(x, [min(2, n) for n in x.shape[2:]], ceil_mode=True)


def upsample(x: Tensor) -> Tensor:
    """Linear interpolation to twice the shape."""
    mode = {4: "bilinear", 5: "trilinear"}[x.dim()]
    return functional.interpolate(x, scale_factor=2, mode=mode, align_corners=False)


def fit_channels(x: Tensor, channels: int) -> Tensor:
    """First `channels` channels; zeros stand before them where there are fewer."""
    missing = channels - x.shape[1]
    if missing <= 0:
        return x[:, :channels]
    return functional.pad(x, [0, 0] * (x.dim() - 2) + [missing, 0])


def pooled(volume: Tensor, scale: int) -> Tensor:
    """Means over blocks of `scale` (a power of two) voxels, as the network's Down does."""
    while scale > 1:
        volume, scale = pool(volume), scale // 2
    return volume

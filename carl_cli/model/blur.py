"""Gaussian blurs of tensors, as products with one small matrix per axis.

On a CPU a product with a banded matrix is many times faster than a one-channel convolution, and
its backward pass is the same product. (Images before they reach a network are smoothed in numpy,
`preprocessing/lowpass`, by taps that keep their variance below one voxel, and label images in
ITK, `io/resample`: neither loads torch.)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Beyond = Literal["zeros", "nearest", "mirrored"]


def blur(x_BCx: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, *shape), sigma in voxels, cut at 2 sigma; zeros beyond the border."""
    return _blurred(x_BCx, sigma, math.ceil(2 * sigma), "zeros")


def blur_keeping_affine(x_BCx: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, *shape), sigma in voxels, cut at 3/2 sigma (uniCARL).

    Beyond the border x goes on point-reflected through the nearest border value, so that an
    affine function comes out as it went in. The window is narrower on a grid that is smaller.
    """
    reach = max(1, int(1.5 * sigma))
    return 2 * _blurred(x_BCx, sigma, reach, "nearest") - _blurred(x_BCx, sigma, reach, "mirrored")


def _blurred(x: Tensor, sigma: float, reach: int, beyond: Beyond) -> Tensor:
    for axis in range(2, x.dim()):
        matrix = _matrix(x.shape[axis], sigma, reach, beyond, x.dtype, x.device)
        x = (x.transpose(axis, -1) @ matrix).transpose(axis, -1)
    return x


@lru_cache(maxsize=64)
def _matrix(
    n: int, sigma: float, reach: int, beyond: Beyond, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(n, n): a row of n voxels times it is the row blurred by 2 reach + 1 taps."""
    if beyond != "zeros":
        reach = min(reach, n - 1)
    # It is kept, and a tensor made in inference mode could not serve a backward pass later.
    with torch.inference_mode(False):
        tap = torch.arange(-reach, reach + 1)
        window = torch.exp(-0.5 * (tap.double() / sigma) ** 2)
        read = torch.arange(n)[:, None] + tap
        weights = (window / window.sum()).expand_as(read)
        if beyond == "zeros":
            weights = weights * ((read >= 0) & (read < n))
        if beyond == "mirrored":
            read = (n - 1) - (read.abs() - (n - 1)).abs()
        matrix = torch.zeros(n, n, dtype=torch.float64)
        matrix.scatter_add_(1, read.clamp(0, n - 1), weights)
        return matrix.T.contiguous().to(dtype=dtype, device=device)

"""The shift at which two images look most alike, among all: where the field of view is cut, or one
image shows a part of the other, the middles of the foregrounds don't correspond."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEAST_OVERLAP = 0.4  # of the smaller foreground


def best_shift(fixed: Tensor, moving: Tensor, shown: Tensor, seen: Tensor) -> Tensor:
    """(D,) voxels, array-axis order: fixed voxel x looks like moving voxel x + shift.

    fixed, moving: channels (1, C, *shape), compared by their mean squared difference where both
    foregrounds, shown and seen (1, 1, *shape), overlap. All shifts at once, by Fourier transforms.
    """
    space = tuple(range(2, fixed.dim()))
    sizes = [a + b for a, b in zip(fixed.shape[2:], moving.shape[2:], strict=True)]
    a, b = shown.to(fixed), seen.to(moving)

    def spectrum(values: Tensor) -> Tensor:
        return torch.fft.rfftn(values, s=sizes, dim=space)

    def total(product: Tensor) -> Tensor:
        return torch.fft.irfftn(product.sum(1, keepdim=True), s=sizes, dim=space)[0, 0]

    weight_a, weight_b = spectrum(a), spectrum(b)
    squares = spectrum(a * fixed.square()).conj() * weight_b
    squares = squares + weight_a.conj() * spectrum(b * moving.square())
    gap = total(squares - 2 * spectrum(a * fixed).conj() * spectrum(b * moving))
    overlap = total(weight_a.conj() * weight_b)
    least = LEAST_OVERLAP * float(torch.minimum(a.sum(), b.sum()))
    mean = torch.where(overlap >= least, gap / overlap.clamp_min(1), torch.inf)
    # torch's own loads sympy, most of a second, for its shapes.
    place = np.unravel_index(int(mean.argmin()), mean.shape)
    # What lies beyond the moving image's extent is a shift to the other side.
    wrapped = zip(map(int, place), sizes, moving.shape[2:], strict=True)
    return torch.tensor([k - n if k >= m else k for k, n, m in wrapped], device=fixed.device)

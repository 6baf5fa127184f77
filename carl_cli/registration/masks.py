"""Masks of images on coarser grids: bool (1, 1, *shape)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d

from carl_cli.model.layers import pooled


def coarse_mask(mask: Tensor | None, coarser: int) -> Tensor | None:
    """Blocks of `coarser` voxels along each axis of which half lies inside."""
    return None if mask is None else pooled(mask.float(), coarser) >= 0.5


def with_rim(mask: Tensor) -> Tensor:
    """A mask and the voxels around it."""
    largest = max_pool3d if mask.dim() == 5 else max_pool2d
    return largest(mask.float(), 3, stride=1, padding=1) > 0


def without_rim(mask: Tensor) -> Tensor:
    """Voxels whose neighbours all lie inside; the mask itself where there are none."""
    inner = ~with_rim(mask == 0)
    return inner if inner.any() else mask

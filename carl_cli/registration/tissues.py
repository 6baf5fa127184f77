"""Tissues of two brains, as channels to compare.

Each class has a word of nine bits; any two words differ in three bits or more, so that nine
channels tell apart what would take one for each class. What is no brain is not looked at: the
network learnt from heads, and sees a brain of many litres in a chest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

BITS, APART = 9, 3
AIR = 0.1  # of the brightness
MOST_HEAD_ML = 9000.0  # with its neck, and some noise around it
BRAIN_ML = 700.0, 2600.0  # what a brain can have, with what the network adds or misses

log = logging.getLogger(__name__)


def tissue_channels(
    network: Callable[[Tensor], Tensor],
    images: tuple[Tensor, Tensor],
    weights: Sequence[float],
    voxel_ml: tuple[float, float],
) -> tuple[Tensor, Tensor] | None:
    """(1, BITS, *shape / 2) of the fixed and of the moving image; None where one shows no brain.

    images: (1, C, *shape) in [0, 1], of C contrasts with these weights; voxel_ml: of their voxels.
    Squared differences are 1 between a tissue and air, and about 2 between two tissues.
    """
    sizes = [ml * _bright(image) for image, ml in zip(images, voxel_ml, strict=True)]
    if max(sizes) > MOST_HEAD_ML or min(sizes) < BRAIN_ML[0]:
        return None  # a trunk, or a knee: the network need not be asked
    channels, volumes = [], []
    for image, millilitres in zip(images, voxel_ml, strict=True):
        shares = _shares(network, image, weights)
        words = _words(shares.shape[1]).to(shares)
        channels.append(torch.einsum("kb,nkzyx->nbzyx", words, shares))
        volumes.append(2 ** (image.dim() - 2) * millilitres * float(shares[:, 2:].sum()))
    log.info("brain found: %.0f ml in the fixed image, %.0f ml in the moving one", *volumes)
    return (channels[0], channels[1]) if all(map(_is_brain, volumes)) else None


def _bright(image: Tensor) -> int:
    """Voxels that are no air in one of the contrasts."""
    return int((image > AIR).any(1).sum())


def _is_brain(millilitres: float) -> bool:
    return BRAIN_ML[0] < millilitres < BRAIN_ML[1]


@torch.no_grad()
def _shares(network: Callable[[Tensor], Tensor], image: Tensor, weights: Sequence[float]) -> Tensor:
    """Of each class, the mean over the contrasts."""
    parts = zip(image.split(1, dim=1), weights, strict=True)
    return torch.stack([weight * network(part) for part, weight in parts]).sum(0)


@cache
def _words(classes: int) -> Tensor:
    """(classes, BITS): ±1/√BITS, 0 for the first class, which is air."""
    words: list[int] = []
    for word in range(2**BITS):
        if all((word ^ other).bit_count() >= APART for other in words):
            words.append(word)
    bits = torch.tensor([[word >> k & 1 for k in range(BITS)] for word in words[: classes - 1]])
    signs = (2.0 * bits - 1) / math.sqrt(BITS)
    return torch.cat([torch.zeros(1, BITS), signs])

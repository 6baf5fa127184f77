"""Tissues of two brains, as channels to compare.

Each class has a word of nine bits; any two words differ in three bits or more, so that nine
channels tell apart what would take one for each class. What is no brain is not looked at: the
network learnt from heads, and sees a brain of many litres in a chest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

from carl_cli.model.parallel import both
from carl_cli.model.tissues import TissueNetwork

BITS, APART = 9, 3
BRAIN_ML = 700.0, 2600.0  # what a brain can have, with what the network adds or misses

log = logging.getLogger(__name__)


def tissue_channels(
    network: TissueNetwork,
    images: tuple[Tensor, Tensor],
    weights: Sequence[float],
    voxel_ml: tuple[float, float],
) -> tuple[Tensor, Tensor] | None:
    """(1, BITS, *shape) of the fixed and of the moving image; None where one shows no brain.

    images: (1, C, *shape) in [0, 1], of C contrasts with these weights. Two tissues are about √2
    apart, a tissue and air 1. (Squared differences: 2 and 1, as of shares.)
    """
    with torch.inference_mode():
        seen = partial(_seen, network, weights)
        calls = [partial(seen, image, ml) for image, ml in zip(images, voxel_ml, strict=True)]
        found = both(calls[0], calls[1], images[0].device)
    volumes = [ml for _, ml in found]
    log.info("brain found: %.0f ml in the fixed image, %.0f ml in the moving one", *volumes)
    if not all(BRAIN_ML[0] < ml < BRAIN_ML[1] for ml in volumes):
        return None
    return found[0][0].clone(), found[1][0].clone()


def _seen(
    network: TissueNetwork, weights: Sequence[float], image: Tensor, voxel_ml: float
) -> tuple[Tensor, float]:
    """Channels, and the volume of the brain in ml."""
    parts = zip(image.split(1, dim=1), weights, strict=True)
    shares = torch.stack([weight * network(part) for part, weight in parts]).sum(0)
    channels = torch.einsum("kb,nkzyx->nbzyx", _words(shares.shape[1]).to(shares), shares)
    return channels, voxel_ml * float(shares[:, 2:].sum())


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

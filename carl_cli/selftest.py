"""A first run of freshly loaded weights: does the network do what a network must?"""

from __future__ import annotations

import time

import torch

from carl_cli.errors import WeightsError
from carl_cli.fields import identity
from carl_cli.weights import Weights

_SIDE = 64  # voxels: enough for six halvings


def self_test(weights: Weights) -> float:
    """Run both directions on a small pair of noise; returns seconds.

    Raises WeightsError when a position on the moving grid is not a number or lies more than
    one image beyond it.
    """
    model = weights.config.model
    shape = (_SIDE,) * model.dimension
    generator = torch.Generator().manual_seed(0)
    size = (1, model.channels, *shape)
    fixed, moving = (torch.rand(size, generator=generator) for _ in range(2))
    start = time.perf_counter()
    with torch.inference_mode():
        maps = weights.network.both(fixed, moving)
        far = [
            (phi.on_grid(shape) - identity(shape, align_corners=model.align_corners)).abs().max()
            for phi in maps
        ]
    if not all(bool(value <= 1) for value in far):
        raise WeightsError(
            f"{weights.source}: the network sends points of a test pair far beyond the image",
            "these numbers are no trained network, or belong to another architecture",
        )
    return time.perf_counter() - start

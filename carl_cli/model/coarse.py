"""The innermost part of a network: found, replaced, and the images as it sees them."""

from __future__ import annotations

import copy

from torch import Tensor

from carl_cli.model.attention import CoordinateAttention
from carl_cli.model.layers import pool
from carl_cli.model.operators import Blurred, Down, Registrar, Symmetric, TwoStep


def coarse_network(network: Registrar) -> Registrar:
    """The innermost network: Ξ (made symmetric, if it is), or the coarsest Ψ."""
    while isinstance(network, Down | Blurred | TwoStep):
        network = network.first if isinstance(network, TwoStep) else network.inner
    return network


def attention_of(network: Registrar) -> CoordinateAttention | None:
    """Ξ itself, also inside Symmetric; None for a network whose coarse part is a Ψ."""
    coarse = coarse_network(network)
    coarse = coarse.inner if isinstance(coarse, Symmetric) else coarse
    return coarse if isinstance(coarse, CoordinateAttention) else None


def weighing(network: Registrar, weights: tuple[float, ...]) -> Registrar:
    """The network, or where there are several contrasts a copy whose Ξ weighs them so."""
    if len(weights) == 1:
        return network
    private = copy.deepcopy(network)
    attention = attention_of(private)
    assert attention is not None, "these weights have no coordinate attention"
    attention.channel_weights = weights
    return private


def coarse_images(network: Registrar, *images: Tensor) -> tuple[Tensor, ...]:
    """Images (B, C, *shape) as the innermost network sees them."""
    while isinstance(network, Down | Blurred | TwoStep):
        if isinstance(network, Down):
            images = tuple(pool(image) for image in images)
        network = network.first if isinstance(network, TwoStep) else network.inner
    return images


def with_coarse(network: Registrar, coarse: Registrar) -> Registrar:
    """Put another network in the innermost place (in place; returns the network)."""
    if isinstance(network, Down | Blurred):
        network.inner = with_coarse(network.inner, coarse)
    elif isinstance(network, TwoStep):
        network.first = with_coarse(network.first, coarse)
    else:
        return coarse
    return network

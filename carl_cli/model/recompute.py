"""The heavy parts of a network, and their activations computed twice instead of kept.

Conv_θ and each Ψ hold nearly all that a backward pass keeps; attention recomputes its weights
by itself. Recomputed as a whole, Conv_θ would be the largest thing that exists at one time; it is
recomputed block by block instead, which costs the same and keeps the blocks' inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from carl_cli.model.encoder import Block, Encoder
from carl_cli.model.unet import DisplacementUNet

Call = Callable[..., Tensor]
Network = TypeVar("Network", bound=nn.Module)


def heavy_calls(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Each heavy part and the name of the method that computes it."""
    for module in network.modules():
        if isinstance(module, Encoder):
            yield module, "forward"
        elif isinstance(module, DisplacementUNet):
            yield module, "displacement"


def recomputed(call: Call) -> Call:
    """The call, of which the backward pass keeps only the inputs. Gradients are the same."""

    @wraps(call)
    def light(*inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return call(*inputs)
        result: Tensor = checkpoint(call, *inputs, use_reentrant=False, preserve_rng_state=False)
        return result

    return light


def checkpointed(network: Network) -> Network:
    """A network in eval mode that keeps little for its backward pass: the same, in place.

    A copy of it made afterwards would still call the original's layers: copy first.
    """
    for module in network.modules():
        if isinstance(module, Block):
            module.forward = recomputed(module.forward)  # type: ignore[method-assign]
        elif isinstance(module, DisplacementUNet):
            module.displacement = recomputed(module.displacement)  # type: ignore[method-assign]
    return network

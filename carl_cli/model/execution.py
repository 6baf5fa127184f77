"""How the heavy parts of a network compute: kept or made again, in which precision, compiled.

Conv_θ, its blocks and Ψ's layers hold nearly all the time and memory of a network. Each is a
`HeavyModule` with an `Execution`, plain data that neither the parameters nor the results of
float32 depend on. What such a part hands on is float32, whatever it computes in: positions need
more than the 8 bits of bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Call = Callable[..., Tensor]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Execution:
    """How a heavy module computes: what differs is time, memory and, in bfloat16, rounding."""

    recompute: bool = False  # in the backward pass instead of kept: less memory, same gradients
    bfloat16: bool = False  # under torch's autocast
    compiled: bool = False  # by torch.compile


class HeavyModule(nn.Module):
    """A module with a method `compute`, most of its work, that it runs as `execution` says.

    compute: float32 tensors (B, C, *shape) → one such tensor.
    """

    execution = Execution()
    compute: Call

    def executed(self, *inputs: Tensor) -> Tensor:
        """The result of `compute`, float32."""
        if not (self.execution.recompute and torch.is_grad_enabled()):
            return self._computed(*inputs)
        result: Tensor = checkpoint(
            self._computed, *inputs, use_reentrant=False, preserve_rng_state=False
        )
        return result

    def _computed(self, *inputs: Tensor) -> Tensor:
        call = _compiled(type(self).compute) if self.execution.compiled else type(self).compute
        if not self.execution.bfloat16:
            return call(self, *inputs)
        with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
            return call(self, *inputs).float()


@cache
def _compiled(function: Call) -> Call:
    """Compiled once for all modules of a class."""
    return torch.compile(function)


def set_execution(
    network: Network, kinds: type[HeavyModule] | tuple[type[HeavyModule], ...], **changes: bool
) -> Network:
    """Change the named fields of `Execution` in all modules of these kinds; returns the network."""
    for module in network.modules():
        if isinstance(module, kinds):
            module.execution = replace(module.execution, **changes)
    return network

"""bfloat16, gradient checkpointing and compilation, around the convolutions only.

The heavy parts are Conv_θ and each Ψ; what they hand on (features, displacements) stays
float32, because positions need more than the 8 bits of bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import wraps

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from carl_cli.model.encoder import Encoder
from carl_cli.model.unet import DisplacementUNet
from carl_cli.training.config import RuntimeConfig

Call = Callable[..., Tensor]


def speed_up(network: nn.Module, runtime: RuntimeConfig, device: torch.device) -> None:
    """Replace the heavy calls of the network, in place. State dicts don't change."""
    if runtime.channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for module, name in _heavy_calls(network):
        call: Call = getattr(module, name)
        if runtime.compile:
            call = torch.compile(call)
        if runtime.bfloat16:
            call = _in_bfloat16(call, device.type)
        if runtime.gradient_checkpointing:
            call = _recomputed(call)
            _halve_momentum(module)
        setattr(module, name, call)


def _heavy_calls(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in network.modules():
        if isinstance(module, Encoder):
            yield module, "forward"
        elif isinstance(module, DisplacementUNet):
            yield module, "displacement"


def _in_bfloat16(call: Call, device_type: str) -> Call:
    @wraps(call)
    def lowered(*inputs: Tensor) -> Tensor:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            return call(*inputs).float()

    return lowered


def _recomputed(call: Call) -> Call:
    @wraps(call)
    def light(*inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return call(*inputs)
        result: Tensor = checkpoint(call, *inputs, use_reentrant=False)
        return result

    return light


def _halve_momentum(module: nn.Module) -> None:
    """Recomputation updates running statistics twice; two updates with 1 - √(1 - m) are
    one with m."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = 1 - math.sqrt(1 - (norm.momentum or 0.0))

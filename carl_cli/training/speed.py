"""bfloat16, gradient checkpointing and compilation, around the convolutions only.

The heavy parts are Conv_θ and each Ψ; what they hand on (features, displacements) stays
float32, because positions need more than the 8 bits of bfloat16.
"""

from __future__ import annotations

import math
from functools import wraps

import torch
from torch import Tensor, nn

from carl_cli.model.recompute import Call, heavy_calls, recomputed
from carl_cli.training.config import RuntimeConfig


def speed_up(network: nn.Module, runtime: RuntimeConfig, device: torch.device) -> None:
    """Replace the heavy calls of the network, in place. State dicts don't change."""
    if runtime.channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for module, name in heavy_calls(network):
        call: Call = getattr(module, name)
        if runtime.compile:
            call = torch.compile(call)
        if runtime.bfloat16:
            call = _in_bfloat16(call, device.type)
        if runtime.gradient_checkpointing:
            call = recomputed(call)
            _halve_momentum(module)
        setattr(module, name, call)


def _in_bfloat16(call: Call, device_type: str) -> Call:
    @wraps(call)
    def lowered(*inputs: Tensor) -> Tensor:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            return call(*inputs).float()

    return lowered


def _halve_momentum(module: nn.Module) -> None:
    """Recomputation updates running statistics twice; two updates with 1 - √(1 - m) are
    one with m."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = 1 - math.sqrt(1 - (norm.momentum or 0.0))

"""Exponential moving average of a network's weights and running statistics.

bfloat16, gradient checkpointing and compilation, around the convolutions only.

The heavy parts are Conv_θ and each Ψ; what they hand on (features, displacements) stays
float32, because positions need more than the 8 bits of bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from carl_cli.model.encoder import Encoder
from carl_cli.model.execution import set_execution
from carl_cli.model.unet import DisplacementUNet
from carl_cli.training.config import RuntimeConfig, StageConfig


class MovingAverage:
    """values ← d values + (1 - d) weights; d grows from 0.1 to `decay` in the first steps,
    so that the random start is soon forgotten."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {k: v.clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])

    @contextmanager
    def in_place_of(self, network: nn.Module) -> Iterator[None]:
        """The network computes with the average inside the block, in eval mode."""
        own = {k: v.clone() for k, v in network.state_dict().items()}
        modes = [(module, module.training) for module in network.modules()]
        network.load_state_dict(self.values)
        network.eval()
        try:
            yield
        finally:
            network.load_state_dict(own)
            for module, training in modes:
                module.training = training


def speed_up(network: nn.Module, runtime: RuntimeConfig) -> None:
    """Make the heavy parts compute as the configuration says. State dicts don't change."""
    if runtime.channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    set_execution(
        network,
        (Encoder, DisplacementUNet),
        recompute=runtime.gradient_checkpointing,
        bfloat16=runtime.bfloat16,
        compiled=runtime.compile,
    )
    if runtime.gradient_checkpointing:
        _halve_momentum(network)


def _halve_momentum(module: nn.Module) -> None:
    """Recomputation updates running statistics twice; two updates with 1 - √(1 - m) are
    one with m."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = 1 - math.sqrt(1 - (norm.momentum or 0.0))


LAST_FRACTION = 0.01  # of the learning rate, at the end of a cosine


def learning_rate(stage: StageConfig, step: int) -> float:
    """Of step 0 … stage.steps - 1: a linear warm-up, then constant or half a cosine."""
    rise = min(1.0, (step + 1) / (stage.warmup_steps + 1))
    if stage.schedule == "constant":
        return stage.learning_rate * rise
    part = step / max(stage.steps - 1, 1)
    fall = LAST_FRACTION + (1 - LAST_FRACTION) * (0.5 + 0.5 * math.cos(math.pi * min(part, 1.0)))
    return stage.learning_rate * rise * fall

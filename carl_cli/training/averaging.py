"""Exponential moving average of a network's weights and running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


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

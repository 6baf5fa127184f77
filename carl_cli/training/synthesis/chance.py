"""Seeded draws: decisions on the host, noise on the training device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Chance:
    """All randomness of one pair, a pure function of `key`: the same key gives the same
    draws, so that a resumed run needs no state but the number of its step."""

    def __init__(self, *key: int | str, device: torch.device | str = "cpu") -> None:
        digest = hashlib.sha256(repr(key).encode()).digest()
        seed = int.from_bytes(digest[:7], "little")
        self.device = torch.device(device)
        self._host = torch.Generator().manual_seed(seed)
        self._noise = torch.Generator(self.device).manual_seed(seed + 1)

    @property
    def host_generator(self) -> torch.Generator:
        """For code that draws on the CPU by itself."""
        return self._host

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self._host).item()

    def uniforms(self, low: float, high: float, count: int) -> list[float]:
        return [self.uniform(low, high) for _ in range(count)]

    def log_uniform(self, low: float, high: float) -> float:
        return float(low * (high / low) ** self.uniform(0, 1))

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self._host).item())

    def coin(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability

    def choose(self, weights: Sequence[float]) -> int:
        """Index drawn with the given weights (they need not sum to one)."""
        tensor = torch.tensor(list(weights), dtype=torch.float64)
        return int(torch.multinomial(tensor, 1, generator=self._host).item())

    def permutation(self, count: int) -> list[int]:
        order: list[int] = torch.randperm(count, generator=self._host).tolist()
        return order

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 tensor on the device."""
        return torch.randn(shape, generator=self._noise, device=self.device)

    def rand(self, *shape: int) -> Tensor:
        """Uniform [0, 1) float32 tensor on the device."""
        return torch.rand(shape, generator=self._noise, device=self.device)

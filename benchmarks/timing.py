"""The time of calls in this process, on a processor or a GPU."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Spread:
    """Seconds of repeated calls by the clock; cpu: median of this process's processor seconds,
    which hardly feel what else a machine does."""

    median: float
    least: float
    most: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g}-{self.most:.3g})"


def call_seconds(
    call: Callable[[], object],
    rounds: int,
    device: str = "cpu",
    warm_up: Callable[[], object] | None = None,
) -> Spread:
    """Of a call, after one that doesn't count, or after another call; a GPU is waited for."""
    (warm_up or call)()
    samples = [_seconds(call, device) for _ in range(rounds)]
    wall, cpu = zip(*samples, strict=True)
    return Spread(statistics.median(wall), min(wall), max(wall), statistics.median(cpu))


def _seconds(call: Callable[[], object], device: str) -> tuple[float, float]:
    """By the clock and of the processor."""
    _wait_for(device)
    start, spent = time.perf_counter(), time.process_time()
    call()
    _wait_for(device)
    return time.perf_counter() - start, time.process_time() - spent


def _wait_for(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """Within: what a GPU's allocator holds at most, in MiB; afterwards the list's only element."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    result: list[float] = []
    yield result
    result.append(torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else math.nan)


def peak_flops(device: str, dtype: torch.dtype, rounds: int = 7, size: int = 1024) -> float:
    """FLOP/s of a square matrix product: the best of several, as a peak should be."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / call_seconds(lambda: a @ b, rounds, device).least


def peak_of(device: str) -> float:
    """The rate that shares are told of: float32 on a processor, float16 on a GPU."""
    if torch.device(device).type == "cpu":
        return peak_flops(device, torch.float32)
    return peak_flops(device, torch.float16, size=8192)


def machine(device: str = "cpu") -> str:
    """What the figures were measured on, in one line."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = [
        x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    load = os.getloadavg()[0]
    return (
        f"{model[0].partition(':')[2].strip() if model else platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, load {load:.1f}"
    )

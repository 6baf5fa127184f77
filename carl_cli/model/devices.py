"""Devices by name."""

from __future__ import annotations

import logging
import os
import re
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch.nn import functional

from carl_cli.errors import UsageError

LOGGER = logging.getLogger(__name__)


def chosen_device(name: str) -> str:
    """auto: a GPU if torch sees one, else the CPU. Raises UsageError for one that isn't there."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if _mps_answers() else "cpu"
    kind = name.split(":")[0]
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind not in there or not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", name):
        raise UsageError(f"--device {name}", "choose auto, cpu, cuda, cuda:N or mps")
    if int(name.partition(":")[2] or 0) >= there[kind]:
        raise UsageError(f"--device {name}: torch sees no such device here", "use --device cpu")
    return name


@lru_cache(maxsize=1)
def _mps_answers() -> bool:
    """Whether Apple's GPU does what networks need, gradients included: of the versions of torch
    that are allowed some have no grid_sample of volumes there, or no gradient of it."""
    if not torch.backends.mps.is_available():
        return False
    try:
        image = torch.ones(1, 1, 2, 2, 2, device="mps", requires_grad=True)
        places = torch.zeros(1, 2, 2, 2, 3, device="mps", requires_grad=True)
        kernel = torch.ones(1, 1, 1, 1, 1, device="mps", requires_grad=True)
        blurred = functional.conv3d(image, kernel)
        functional.grid_sample(blurred, places, align_corners=True).sum().backward()
    except (RuntimeError, NotImplementedError):
        LOGGER.warning(
            "torch %s lacks what networks need on Apple's GPU: the CPU is used", torch.__version__
        )
        return False
    return True


def worker_devices(device: str, workers: int, share: bool = False) -> list[str]:
    """A device for each worker: a GPU of its own unless they may share; the CPU is shared.

    device: as `chosen_device` gives it; "cuda" stands for all GPUs that CUDA_VISIBLE_DEVICES
    leaves. Raises UsageError for more workers than GPUs.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}: at least 1 is needed")
    if device == "cpu" or workers == 1:
        return [device] * workers
    there = [device]
    if device == "cuda":
        there = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if workers > len(there) and not share:
        raise UsageError(
            f"--workers {workers} on {len(there)} GPU",
            "one worker for each GPU, several on one with --share-gpu, or --device cpu",
        )
    return [there[number % len(there)] for number in range(workers)]


def set_deterministic(wanted: bool) -> None:
    """Only operations whose result does not depend on how a GPU schedules them; torch raises
    RuntimeError for one that has no such form. cuBLAS needs its workspace fixed before it starts.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    # The call imports torch's compiler, which takes seconds.
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)


@cache
def multiplies_bfloat16(processor: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has instructions for it: elsewhere bfloat16 is slower, not faster."""
    try:
        return bool(re.search(r"\b(amx_bf16|avx512_bf16)\b", processor.read_text()))
    except OSError:
        return False

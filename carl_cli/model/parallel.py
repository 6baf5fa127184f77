"""Two independent halves of a computation at once, on a CPU.

Registration does nearly everything twice, for the fixed and for the moving image. The tensors are
too small to share one operation among threads with profit, but each half can have a thread of its
own. Each operation then gives the bits that it gives on one thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import TypeVar

import torch

First = TypeVar("First")
Second = TypeVar("Second")

_half = threading.local()  # .busy: this thread computes one half, so nothing is split further


def both(
    first: Callable[[], First], second: Callable[[], Second], device: torch.device | None
) -> tuple[First, Second]:
    """The two results; raises what either raises. One after the other where there is one thread,
    within a half, for tensors on a GPU, and while their gradients are recorded.

    device: of the tensors; None where there are none.
    """
    threads = torch.get_num_threads()
    apart = device is None or (device.type == "cpu" and not torch.is_grad_enabled())
    if not apart or threads < 2 or getattr(_half, "busy", False):
        return first(), second()
    inference, context = torch.is_inference_mode_enabled(), copy_context()
    other = _helper().submit(context.run, _computed, second, threads // 2, inference)
    try:
        mine = _computed(first, threads - threads // 2, inference)
    finally:
        other.exception()  # waits: the other half must not go on behind an error
        torch.set_num_threads(threads)
    return mine, other.result()


def _computed(half: Callable[[], First], threads: int, inference: bool) -> First:
    """torch keeps all of these for each thread apart."""
    torch.set_num_threads(threads)
    _half.busy = True
    try:
        with torch.inference_mode(inference), torch.no_grad():
            return half()
    finally:
        _half.busy = False


@cache
def _helper() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "half")


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_helper.cache_clear)  # a fork takes no threads along

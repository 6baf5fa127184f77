"""SIGTERM (what Slurm sends before it preempts) as a flag that the loop looks at."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Flag:
    up = False


@contextmanager
def sigterm() -> Iterator[Flag]:
    """A flag that SIGTERM raises; the loop stops at the end of the step."""
    flag = Flag()

    def raise_flag(_number: int, _frame: FrameType | None) -> None:
        flag.up = True

    before = signal.signal(signal.SIGTERM, raise_flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)

"""How long work tells of its progress: a callback, so that libraries never print."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol


class Progress(Protocol):
    """Called as the work goes on; cheap enough to be called at every step."""

    def __call__(self, stage: str, fraction: float, detail: str = "", /) -> None:
        """Stage in plain words ("instance optimisation"), part done (0 to 1), e.g. the loss."""


def silent(_stage: str, _fraction: float, _detail: str = "", /) -> None:
    """The progress of whoever does not look."""


_heard: ContextVar[Callable[[float, str], None]] = ContextVar("heard", default=lambda *_: None)


def work_done(amount: float, kind: str) -> None:
    """Said deep inside a computation, where no callback is handed down: nobody need listen."""
    _heard.get()(amount, kind)


@contextmanager
def listening(heard: Callable[[float, str], None]) -> Iterator[None]:
    """Within it, `heard` gets what `work_done` says."""
    token = _heard.set(heard)
    try:
        yield
    finally:
        _heard.reset(token)


@dataclass
class Stopwatch:
    """`seconds` maps a stage to its wall-clock time; a stage entered twice is added up."""

    progress: Progress = silent
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.progress(name, 0.0)
        start = time.perf_counter()
        yield
        spent = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.seconds[name] = round(spent, 3)
        self.progress(name, 1.0)

"""Seconds per stage, told to the progress as they pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from carl_cli.progress import Progress, silent


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

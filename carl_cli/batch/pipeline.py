"""Cases one after the other; files are read and written while the network is busy.

One thread does all the reading and writing, in this order: the last case is written, then the
next one is read. So no two libraries for files work at once (HDF5 must not), and never more
than two cases are in memory; only one where two would not fit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from carl_cli.batch.job import Job, Outcome, clear_outputs, told
from carl_cli.report.process import peak_memory_mib
from carl_cli.report.record import RunRecord
from carl_cli.weights.folder import Weights
from carl_cli.workflows.memory import check_room, room_for_both
from carl_cli.workflows.register import (
    ComputedCase,
    LoadedCase,
    compute_case,
    deliver_case,
    load_case,
)

LOGGER = logging.getLogger(__name__)


class Watcher(Protocol):
    """Is told of every case, from whichever thread."""

    def started(self, job: Job) -> None:
        """The network begins, or would if the case could be read."""

    def finished(self, job: Job, outcome: Outcome) -> None:
        """Everything is written, or it failed."""


def run_jobs(jobs: Iterator[Job], weights: Weights, watcher: Watcher) -> None:
    """Do all the jobs. The next one is taken when the one before it is started."""
    # On the way out, also after an interruption, what is computed is still written.
    with ThreadPoolExecutor(1, "files") as files:
        line = _Line(weights, watcher, files)
        current = line.reading(next(jobs, None))
        while current is not None:
            passage = current.result()
            watcher.started(passage.job)
            current = line.turn(passage, next(jobs, None))
        line.written.result()


class _Line:
    """The network, which has one case after the other, and the thread for files."""

    def __init__(self, weights: Weights, watcher: Watcher, files: ThreadPoolExecutor) -> None:
        self.weights = weights
        self.watcher = watcher
        self.files = files
        self.written: Future[None] = files.submit(lambda: None)

    def reading(self, job: Job | None) -> Future[_Passage] | None:
        if job is None:
            return None
        return self.files.submit(_Passage(job, self.weights).read)

    def turn(self, passage: _Passage, following: Job | None) -> Future[_Passage] | None:
        """Compute a case and have it written; the following one is read, meanwhile if it fits."""
        beside = following is not None and self._room_for(passage.job, following)
        upcoming = self.reading(following) if beside else None
        try:
            passage.compute()
        except BaseException:
            if upcoming is not None:
                upcoming.cancel()
            raise
        self.written.result()
        self.written = self.files.submit(_write, passage, self.watcher)
        if beside:
            return upcoming
        self.written.result()
        return self.reading(following)

    def _room_for(self, job: Job, following: Job) -> bool:
        return room_for_both(job.plan, following.plan, self.weights)


def _write(passage: _Passage, watcher: Watcher) -> None:
    passage.write()
    watcher.finished(passage.job, passage.outcome())


class _Passage:
    """A case on its way. What goes wrong is its own affair; an interruption is not caught."""

    def __init__(self, job: Job, weights: Weights) -> None:
        self.job = job
        self.weights = weights
        self.seconds = 0.0
        self.error = ""
        self._loaded: LoadedCase | None = None
        self._computed: ComputedCase | None = None
        self._record: RunRecord | None = None

    def read(self) -> _Passage:
        self._step(self._read)
        return self

    def compute(self) -> None:
        with suppress(OSError):
            # Restarts the peak that the kernel keeps; elsewhere it stays that of the process.
            Path("/proc/self/clear_refs").write_text("5")
        self._step(self._compute)

    def write(self) -> None:
        self._step(self._write)

    def outcome(self) -> Outcome:
        return Outcome(round(self.seconds, 3), peak_memory_mib(), self._record, self.error)

    def _read(self) -> None:
        job = self.job
        clear_outputs(job)
        check_room(job.plan, self.weights)
        self._loaded = load_case(job.inputs, job.options)

    def _compute(self) -> None:
        assert self._loaded is not None, "read before"
        loaded, self._loaded = self._loaded, None
        self._computed = compute_case(loaded, self.weights)

    def _write(self) -> None:
        assert self._computed is not None, "computed before"
        computed, self._computed = self._computed, None
        self._record = deliver_case(computed, self.job.outputs, self.job.settings)

    def _step(self, function: Callable[[], None]) -> None:
        if self.error:
            return
        start = time.perf_counter()
        try:
            function()
        except Exception as failure:
            LOGGER.debug("%s", self.job.name, exc_info=True)
            self.error = told(failure)
        self.seconds += time.perf_counter() - start

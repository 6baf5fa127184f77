"""Cases one after the other; files are read and written while the network is busy.

One thread does all the reading and writing, in this order: the last case is written, then the
next one is read. So no two libraries for files work at once (HDF5 must not), and never more
than two cases are in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from carl_cli.batching.job import Job, Outcome, clear_outputs, told
from carl_cli.case import ComputedCase, LoadedCase, compute_case, deliver_case, load_case
from carl_cli.report.record import RunRecord, peak_memory_mib
from carl_cli.weights import Weights

LOGGER = logging.getLogger(__name__)


class Watcher(Protocol):
    """Is told of every case, from whichever thread."""

    def started(self, job: Job) -> None:
        """The network begins, or would if the case could be read."""

    def finished(self, job: Job, outcome: Outcome) -> None:
        """Everything is written, or it failed."""


def run_jobs(jobs: Iterator[Job], weights: Weights, watcher: Watcher) -> None:
    """Do all the jobs. The next one is taken when the one before it is started."""
    with ThreadPoolExecutor(1, "files") as files:
        try:
            _run_jobs(jobs, weights, watcher, files)
        except BaseException:
            # What is being written is finished; what was only going to be read is not.
            files.shutdown(cancel_futures=True)
            raise


def _run_jobs(
    jobs: Iterator[Job], weights: Weights, watcher: Watcher, files: ThreadPoolExecutor
) -> None:
    written: Future[None] = files.submit(lambda: None)
    current = _reading(next(jobs, None), files)
    while current is not None:
        passage = current.result()
        written.result()
        watcher.started(passage.job)
        current = _reading(next(jobs, None), files)
        passage.compute(weights)
        written = files.submit(_write, passage, watcher)
        del passage  # the images of a case that is written are not kept
    written.result()


def _reading(job: Job | None, files: ThreadPoolExecutor) -> Future[_Passage] | None:
    if job is None:
        return None
    passage = _Passage(job)
    return files.submit(passage.read)


def _write(passage: _Passage, watcher: Watcher) -> None:
    passage.write()
    watcher.finished(passage.job, passage.outcome())


class _Passage:
    """A case on its way. What goes wrong is its own affair; an interruption is not caught."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.seconds = 0.0
        self.error = ""
        self._loaded: LoadedCase | None = None
        self._computed: ComputedCase | None = None
        self._record: RunRecord | None = None

    def read(self) -> _Passage:
        self._step(self._read)
        return self

    def compute(self, weights: Weights) -> None:
        with suppress(OSError):
            # Restarts the peak that the kernel keeps; elsewhere it stays that of the process.
            Path("/proc/self/clear_refs").write_text("5")
        self._step(self._compute, weights)

    def write(self) -> None:
        self._step(self._write)

    def outcome(self) -> Outcome:
        return Outcome(round(self.seconds, 3), peak_memory_mib(), self._record, self.error)

    def _read(self) -> None:
        clear_outputs(self.job)
        self._loaded = load_case(self.job.inputs, self.job.options)

    def _compute(self, weights: Weights) -> None:
        assert self._loaded is not None, "read before"
        loaded, self._loaded = self._loaded, None
        self._computed = compute_case(loaded, weights)

    def _write(self) -> None:
        assert self._computed is not None, "computed before"
        computed, self._computed = self._computed, None
        self._record = deliver_case(computed, self.job.outputs, self.job.settings)

    def _step(self, function: Callable[..., None], *arguments: Any) -> None:
        if self.error:
            return
        start = time.perf_counter()
        try:
            function(*arguments)
        except Exception as failure:
            LOGGER.debug("%s", self.job.name, exc_info=True)
            self.error = told(failure)
        self.seconds += time.perf_counter() - start

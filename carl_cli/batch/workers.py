"""Cases done by other processes; one that dies over a case, whatever the case did, loses it only.

Also a single worker is a process of its own: libraries that read files written by others, and a
system short of memory, end a process without asking it.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from queue import Queue
from threading import Lock
from types import FrameType
from typing import Any, NoReturn

from carl_cli.batch.job import Job, Outcome
from carl_cli.batch.pipeline import Watcher, run_jobs
from carl_cli.system import give_back_memory, keep_freed_memory, limit_threads
from carl_cli.weights.folder import load_weights

_PR_SET_PDEATHSIG = 1
PATIENCE_S = 30.0
"""How long a worker that is told to end may take to write what it has computed."""


@dataclass(frozen=True)
class Setup:
    """What a worker computes with."""

    weights: str  # their folder
    device: str  # torch's name of it
    threads: int
    deterministic: bool


class Crew:
    """Processes that stay until the end of the `with` block: a start costs seconds, and a template
    has round after round of cases."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss()

    def _dismiss(self) -> None:
        for worker in self._workers:
            worker.stop()

    def do(self, jobs: Iterator[Job], setups: Sequence[Setup], watcher: Watcher) -> None:
        """Do all the jobs, by a process for each setup. The watcher is told in this one."""
        if [worker.setup for worker in self._workers] != list(setups):
            self._dismiss()
            self._workers = [_Worker(setup) for setup in setups]
        queue = _Queue(jobs)
        busy = [worker for worker in self._workers if worker.begin(queue)]
        while busy:
            ready = wait([worker.connection for worker in busy])
            for worker in [w for w in busy if w.connection in ready]:
                worker.listen(queue, watcher)
                if not worker.jobs and not worker.begin(queue):
                    busy.remove(worker)


class _Queue:
    """Jobs that wait; those that were in a worker that died are done again, each alone."""

    def __init__(self, jobs: Iterator[Job]) -> None:
        self._jobs = jobs
        self._again: list[Job] = []

    def next(self) -> tuple[Job | None, bool]:
        """A job, and whether it must be alone in its worker."""
        if self._again:
            return self._again.pop(0), True
        return next(self._jobs, None), False

    def companion(self) -> Job | None:
        """A job that may be read while another one is computed."""
        return None if self._again else next(self._jobs, None)

    def repeat(self, jobs: Sequence[Job]) -> None:
        self._again.extend(jobs)


class _Worker:
    """A process and the pipe to it; started anew when it has died.

    It is sent a job and computes it; when it says that it has started, it is sent the next one
    to read meanwhile, or None: then it finishes what it has.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.jobs: dict[str, Job] = {}
        self.alone = False
        self.begun = 0.0
        self.process: Any = None

    def _start(self) -> None:
        # A fresh interpreter: neither CUDA nor OpenMP survives a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self.setup, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, queue: _Queue) -> bool:
        """Take the next case; False when there is none left."""
        job, self.alone = queue.next()
        if job is None:
            return False
        if self.process is None or not self.process.is_alive():
            self._start()
        self._send(job)
        return True

    def _send(self, job: Job | None) -> None:
        if job is not None:
            self.jobs[job.name] = job
        with suppress(BrokenPipeError):  # it has died meanwhile: listen() finds out
            self.connection.send(job)

    def listen(self, queue: _Queue, watcher: Watcher) -> None:
        """One message of the worker, or its death."""
        try:
            name, outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(queue, watcher)
            return
        if isinstance(outcome, logging.LogRecord):
            logging.getLogger(outcome.name).handle(outcome)
        elif outcome is None:
            self.begun = time.perf_counter()
            watcher.started(self.jobs[name])
            self._send(None if self.alone else queue.companion())
        else:
            watcher.finished(self.jobs.pop(name), outcome)

    def _bury(self, queue: _Queue, watcher: Watcher) -> None:
        """A single case was the cause; of several nobody knows which, so each is tried alone."""
        self.process.join()
        self.connection.close()
        lost, self.jobs = list(self.jobs.values()), {}
        if len(lost) > 1:
            queue.repeat(lost)
            return
        spent = round(time.perf_counter() - self.begun, 3) if self.begun else 0.0
        for job in lost:
            watcher.finished(job, Outcome(spent, error=_death(self.process.exitcode)))

    def stop(self) -> None:
        """One without work ends by itself. Of another, what is computed is still written, unless
        that takes too long."""
        if self.process is None:
            return
        self.connection.close()
        if self.jobs:
            self.process.terminate()
        self.process.join(PATIENCE_S)
        self.process.kill()  # also one that Ctrl-Z has stopped, which hears nothing else
        self.process.join()


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the worker was killed, most likely for want of memory (use fewer --workers)"
    if code < 0:
        return f"a library broke down over this case ({signal.Signals(-code).name})"
    return f"the worker ended with exit code {code}"


class _Reporter(QueueHandler):
    """Tells the main process: (name, None) for a start, (name, outcome) for an end, and what is
    logged here, which it has a terminal and a file for."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(Queue())
        self._connection = connection
        self._one_at_a_time = Lock()  # a start and an end come from different threads

    def enqueue(self, record: logging.LogRecord) -> None:
        self._send("", record)

    def started(self, job: Job) -> None:
        self._send(job.name, None)

    def finished(self, job: Job, outcome: Outcome) -> None:
        self._send(job.name, outcome)

    def _send(self, name: str, outcome: Outcome | logging.LogRecord | None) -> None:
        with self._one_at_a_time:
            self._connection.send((name, outcome))


def _serve(connection: Connection, setup: Setup, parent: int) -> None:
    """The life of a worker: the network once, then case after case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    _die_with(parent)
    reporter = _Reporter(connection)
    _log_to(reporter)
    limit_threads(setup.threads)
    keep_freed_memory()
    from carl_cli.model.devices import set_deterministic

    set_deterministic(setup.deterministic)
    weights = load_weights(setup.weights, setup.device)
    while True:
        try:
            first = connection.recv()
            run_jobs(chain([first], iter(connection.recv, None)), weights, reporter)
            give_back_memory()  # others may need it until the next round
        except EOFError:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already
            return


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """What is open gets closed, half-written files go away."""
    raise SystemExit(128 + number)


def _log_to(reporter: _Reporter) -> None:
    """Library modules log, and libraries warn, as in the main process."""
    logger = logging.getLogger("carl_cli")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(reporter)

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if issubclass(category, UserWarning | RuntimeWarning):
            logger.warning("%s", message)

    warnings.showwarning = show  # type: ignore[assignment]  # positional, as Python calls it


def _die_with(parent: int) -> None:
    """A run that is killed leaves no worker behind that writes into the folders of the next."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)

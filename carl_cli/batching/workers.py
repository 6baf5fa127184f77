"""Cases done in this process or by several others; a process that dies loses its case only."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from carl_cli.batching.job import Job, Outcome, attempt
from carl_cli.threads import limit_threads
from carl_cli.weights import Weights, load_weights

Results = Iterator[tuple[Job, Outcome]]
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Setup:
    """What a worker computes with."""

    weights: str
    device: str
    threads: int
    deterministic: bool


def here(jobs: Iterator[Job], weights: Weights, started: Callable[[Job], None]) -> Results:
    """One case after the other, in this process."""
    for job in jobs:
        started(job)
        yield job, attempt(job, weights)


def elsewhere(
    jobs: Iterator[Job], setups: Sequence[Setup], started: Callable[[Job], None]
) -> Results:
    """A process for each setup, each with one case at a time; results as they come."""
    workers = [_Worker(setup) for setup in setups]
    try:
        busy = [worker for worker in workers if worker.take(jobs, started)]
        while busy:
            ready = wait([worker.connection for worker in busy])
            for worker in [w for w in busy if w.connection in ready]:
                job = worker.job
                assert job is not None, "a busy worker has a case"
                yield job, worker.outcome()
                if not worker.take(jobs, started):
                    busy.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process and the pipe to it; started anew when it has died."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.job: Job | None = None
        self.begun = 0.0
        self._start()

    def _start(self) -> None:
        # A fresh interpreter: neither CUDA nor OpenMP survives a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self.setup, os.getpid())
        self.process: Any = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def take(self, jobs: Iterator[Job], started: Callable[[Job], None]) -> bool:
        """Begin the next case; False when there is none left."""
        self.job = next(jobs, None)
        if self.job is None:
            return False
        if not self.process.is_alive():
            self._start()
        started(self.job)
        self.begun = time.perf_counter()
        with suppress(BrokenPipeError):  # it has died meanwhile: outcome() says so
            self.connection.send(self.job)
        return True

    def outcome(self) -> Outcome:
        try:
            result: Outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            spent = round(time.perf_counter() - self.begun, 3)
            return Outcome(spent, error=_death(self.process.exitcode))
        return result

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the worker was killed, most likely for want of memory (use fewer --workers)"
    return f"the worker ended with exit code {code}"


def _serve(connection: Connection, setup: Setup, parent: int) -> None:
    """The life of a worker: the network once, then case after case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    limit_threads(setup.threads)
    import torch

    torch.use_deterministic_algorithms(setup.deterministic)
    weights = load_weights(setup.weights, setup.device)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(attempt(job, weights))


def _die_with(parent: int) -> None:
    """A run that is killed leaves no worker behind that writes into the folders of the next."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)

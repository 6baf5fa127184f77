"""What happens on a node: the environment is checked, then a part of the batch is done."""

from __future__ import annotations

import multiprocessing
import platform
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carl_cli import __version__
from carl_cli.errors import InputError, OutputError, WeightsError
from carl_cli.weights.files import CONFIG, MODEL

Work = Callable[[str | None], int]
"""Does a part, I/N, or for None merges all parts; returns an exit code. It is pickled."""
_GRACE_S = 600
_TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)


def versions() -> str:
    """What has to be the same on the node as where the batch was submitted."""
    return f"carl {__version__} on Python {platform.python_version()}"


def check_node(expected: str, weights: Path, out_dir: Path) -> None:
    """Raises InputError, WeightsError or OutputError with one line that names this node."""
    node = socket.gethostname()
    if versions() != expected:
        raise InputError(
            f"{node} has {versions()}, the batch was submitted with {expected}",
            "submit from the environment that the nodes have",
        )
    for path in (weights / CONFIG, weights / MODEL):
        try:
            path.open("rb").close()
        except OSError as error:
            hint = "put the weights on a file system that the nodes share"
            raise WeightsError(f"{node}: {path}: {error.strerror}", hint) from error
    try:
        tempfile.TemporaryFile(dir=out_dir).close()
    except OSError as error:
        hint = "choose an --out-dir on a file system that the nodes share"
        raise OutputError(
            f"{node}: nothing can be written in {out_dir}: {error.strerror}", hint
        ) from error


@dataclass(frozen=True)
class ShardTask:
    """Part I of `count`, called by submitit with I; pickled by it.

    When Slurm warns of a time limit, submitit asks for a checkpoint and requeues the task. There
    is nothing to keep: what is finished lies in the batch's folder.
    """

    work: Work
    count: int

    def __call__(self, index: int) -> None:
        """Ends the process with the exit code of the work unless that is 0."""
        code = _run(self.work, f"{index}/{self.count}")
        if code in _TERMINATED:
            # Preempted or cancelled: a task that ended by itself now would count as failed,
            # one that waits for its end is requeued or cancelled by Slurm.
            time.sleep(_GRACE_S)
        _exit_unless_done(code)

    def checkpoint(self, index: int) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, index)


@dataclass(frozen=True)
class SummaryTask:
    """The merging of all parts, after them."""

    work: Work

    def __call__(self) -> None:
        _exit_unless_done(_run(self.work, None))


def _exit_unless_done(code: int) -> None:
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def _run(work: Work, shard: str | None) -> int:
    """The exit code of a process of its own: submitit, in this one, answers Slurm meanwhile."""
    process = multiprocessing.get_context("spawn").Process(target=_deaf, args=(work, shard))
    process.start()
    try:
        process.join()
    except BaseException:
        process.kill()
        raise
    assert process.exitcode is not None, "it has ended"
    return process.exitcode


def _deaf(work: Work, shard: str | None) -> None:
    """The signals before a time limit are meant for submitit; by default they kill."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    raise SystemExit(work(shard))

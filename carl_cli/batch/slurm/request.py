"""What is asked of Slurm for each task of an array."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from carl_cli.errors import UsageError

# Slurm's own spellings: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_WARNING_S = 90


@dataclass(frozen=True)
class Request:
    """Gpus, cores, memory and time are those of one task; None: as the cluster does by default."""

    tasks: int
    minutes: int
    partition: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    memory: str | None = None  # in Slurm's words, as 16G
    max_parallel: int | None = None  # tasks at once; None: all
    requeue: bool | None = None
    others: Mapping[str, str | bool] | None = None
    """Any option of sbatch without its dashes → its value, True for one that takes none."""

    def parameters(self) -> dict[str, Any]:
        """For submitit's SlurmExecutor. The signal before the time is up lets it requeue."""
        chosen = {
            "partition": self.partition,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "mem": self.memory,
        }
        return {
            **{name: value for name, value in chosen.items() if value is not None},
            "time": self.minutes,
            "array_parallelism": self.max_parallel or self.tasks,
            "signal_delay_s": min(_WARNING_S, 10 * self.minutes),
            "wckey": None,
            # srun no longer takes the cores from the job's own request (Slurm 22.05).
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.cpus else None,
            "stderr_to_stdout": True,
            "additional_parameters": {**self._requeueing(), **(self.others or {})},
        }

    def _requeueing(self) -> dict[str, bool]:
        if self.requeue is None:
            return {}
        return {"requeue": True} if self.requeue else {"no-requeue": True}


def minutes_of(text: str) -> int:
    """A time limit as Slurm writes it, in whole minutes, rounded up. Raises UsageError."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise UsageError(f"--time {text}", "give minutes, hours:minutes:seconds or days-hours")
    days, *parts = (int(part) if part else None for part in found.groups())
    if days is not None or parts[2] is not None:
        hours, minutes, seconds = (part or 0 for part in parts)
    else:
        hours, minutes, seconds = 0, parts[0] or 0, parts[1] or 0
    total = ((days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)
    if not total:
        raise UsageError(f"--time {text}: no time at all", "give at least a minute")
    return total


def other_options(texts: Iterable[str]) -> dict[str, str | bool]:
    """`account=lab` and `exclusive` as options of sbatch."""
    pairs = [text.lstrip("-").partition("=") for text in texts]
    return {name: value if equals else True for name, equals, value in pairs}

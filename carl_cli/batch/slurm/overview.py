"""How far a batch is: the status rows of its cases, the states of its jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carl_cli.batch.slurm.jobs import ALIVE, FOLDER, Submission, submissions, task_states
from carl_cli.batch.status import StatusRow, read_rows
from carl_cli.errors import InputError

GOOD = ALIVE | {"COMPLETED", ""}


@dataclass(frozen=True)
class JobState:
    """What became of a submission."""

    submission: Submission
    tasks: dict[str, str]  # task id → Slurm's word, "" where it has none

    @property
    def counts(self) -> Counter[str]:
        return Counter(state or "unknown" for state in self.tasks.values())

    @property
    def bad(self) -> dict[str, str]:
        """Tasks that ended otherwise than well."""
        return {task: state for task, state in self.tasks.items() if state not in GOOD}

    @property
    def alive(self) -> bool:
        return any(state in ALIVE for state in self.tasks.values())


@dataclass(frozen=True)
class Overview:
    """How far a batch is."""

    counts: dict[str, int]  # done, failed, running, interrupted, waiting; a case is in one
    failed: list[StatusRow]
    jobs: list[JobState]


def overview(out_dir: Path) -> Overview:
    """Raises InputError for a folder in which no batch was begun."""
    rows = list(read_rows(out_dir).values())
    jobs = [JobState(entry, task_states(entry)) for entry in submissions(out_dir)]
    if not rows and not jobs:
        raise InputError(f"{out_dir} holds no batch", "name the --out-dir of carl batch")
    failed = [row for row in rows if row.state == "failed"]
    return Overview(_counts(rows, jobs), failed, jobs)


def _counts(rows: Sequence[StatusRow], jobs: Sequence[JobState]) -> dict[str, int]:
    """Cases that no task has reached yet have no row. What runs in no living job was interrupted;
    without jobs nobody can tell."""
    found = Counter(row.state for row in rows)
    unseen = max(0, jobs[-1].submission.cases - len(rows)) if jobs else 0
    known = jobs and "" not in jobs[-1].tasks.values()
    ended = known and not any(job.alive for job in jobs)
    return {
        "done": found["done"],
        "failed": found["failed"],
        "running": 0 if ended else found["running"],
        "interrupted": found["running"] if ended else 0,
        "waiting": found["waiting"] + unseen,
    }


def log_of(out_dir: Path, task: str) -> Path:
    """Where submitit writes what a task says."""
    return out_dir / FOLDER / f"{task}_0_log.out"

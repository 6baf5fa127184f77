"""The jobs of a batch: what was submitted, kept in its folder, and what Slurm says of it.

squeue tells of tasks that wait, run or ended minutes ago, sacct of older ones where the cluster
keeps accounts. Where neither knows, a task's state is empty.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carl_cli.errors import InputError, UsageError
from carl_cli.io.atomic import atomic_path
from carl_cli.report.process import utc_now

FOLDER = Path("shards", "slurm")
"""Within the batch's folder: scripts, pickles and logs of submitit, and the list of jobs."""
FILE = "jobs.jsonl"
ALIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SIGNALING"),
    "STAGE_OUT",
}
"""States from which a task still goes on, by itself or once it is released."""


class Submission(BaseModel):
    """One array of tasks that Slurm has taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    job: str  # Slurm's number
    tasks: int
    cases: int  # of all tasks together
    summary: str | None = None  # the job that merges the parts after it; None: it was refused
    submitted: str = Field(default_factory=utc_now)  # UTC, ISO 8601

    def task_ids(self) -> list[str]:
        """As Slurm writes them; a single task is no array."""
        if self.tasks == 1:
            return [self.job]
        return [f"{self.job}_{number}" for number in range(self.tasks)]


def submissions(out_dir: Path) -> list[Submission]:
    """What was submitted for this batch, oldest first. Raises InputError for a damaged list."""
    path = out_dir / FOLDER / FILE
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Submission.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise InputError(
            f"{path} is not carl's list of jobs", "remove it; squeue and scancel know the jobs"
        ) from error


def note_submission(out_dir: Path, new: Submission) -> None:
    """Add it to the batch's list. Raises InputError for a damaged list, OutputError."""
    lines = [entry.model_dump_json() for entry in (*submissions(out_dir), new)]
    with atomic_path(out_dir / FOLDER / FILE) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def task_states(submission: Submission) -> dict[str, str]:
    """Task id → Slurm's word (RUNNING, …); "" where Slurm is absent or has forgotten."""
    known = _of_queue(submission.job)
    if not all(task in known for task in submission.task_ids()):
        known = {**_of_accounts(submission.job), **known}
    return {task: known.get(task, "") for task in submission.task_ids()}


def alive(submission: Submission) -> bool:
    """Whether any of its tasks still goes on, as far as Slurm can be asked."""
    return any(state in ALIVE for state in task_states(submission).values())


def cancel_jobs(out_dir: Path) -> list[str]:
    """Take the batch's arrays that still go on from the queue, with the jobs that wait for them.

    Returns their ids. Raises InputError when none was submitted, UsageError without Slurm.
    """
    found = submissions(out_dir)
    if not found:
        raise InputError(f"{out_dir}: no job was submitted for it", "name the batch's --out-dir")
    if shutil.which("scancel") is None:
        raise UsageError("there is no scancel here", "cancel where the batch was submitted")
    living = [entry for entry in found if alive(entry)]
    for entry in living:
        _cancel(entry)
    return [entry.job for entry in living]


def _cancel(submission: Submission) -> None:
    jobs = [job for job in (submission.job, submission.summary) if job]
    done = subprocess.run(["scancel", *jobs], capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"scancel {' '.join(jobs)}: {' '.join(done.stderr.split())}")


def _of_queue(job: str) -> dict[str, str]:
    """%i is the task's id, as --array writes waiting tasks one by one."""
    return _table(["squeue", f"--jobs={job}", "--array", "--states=all", "--format=%i|%T"])


def _of_accounts(job: str) -> dict[str, str]:
    """The word may be followed by more, as in `CANCELLED by 1000`."""
    found = _table(["sacct", f"--jobs={job}", "--parsable2", "--format=JobID,State"])
    return {task: state.split()[0] for task, state in found.items() if state}


def _table(command: list[str]) -> dict[str, str]:
    """First column → second, empty when Slurm gives no answer."""
    if shutil.which(command[0]) is None:
        return {}
    done = subprocess.run([*command, "--noheader"], capture_output=True, text=True)
    pairs = [line.strip().partition("|") for line in done.stdout.splitlines()]
    return {task: state for task, bar, state in pairs if bar}

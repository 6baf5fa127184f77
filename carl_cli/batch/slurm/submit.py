"""A batch handed to Slurm through submitit: an array of parts, then a job that merges them."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carl_cli.batch.slurm.jobs import FOLDER, Submission, alive, note_submission, submissions
from carl_cli.batch.slurm.node import ShardTask, SummaryTask, Work, versions
from carl_cli.batch.slurm.request import Request
from carl_cli.errors import UsageError
from carl_cli.io.atomic import make_folder

LOGGER = logging.getLogger(__name__)
_SUMMARY_MINUTES = 60
_TIMEOUTS = 3
"""How often a task that runs out of time is requeued, if it may be."""


@dataclass(frozen=True)
class Plan:
    """What is handed over."""

    out_dir: Path
    weights: Path  # their folder, which the nodes must see
    work: Work
    cases: int


def submit(plan: Plan, request: Request) -> Submission:
    """Raises UsageError without Slurm or submitit, for a batch that still runs, and with sbatch's
    own words when it refuses; OutputError."""
    submitit = _submitit()
    _check_idle(plan.out_dir)
    folder = plan.out_dir.absolute() / FOLDER
    make_folder(folder)
    job = _send_parts(submitit, folder, plan, request)
    summary = _send_summary(submitit, folder, plan, request, job)
    new = Submission(job=job, tasks=request.tasks, cases=plan.cases, summary=summary)
    note_submission(plan.out_dir, new)
    return new


def _send_parts(submitit: Any, folder: Path, plan: Plan, request: Request) -> str:
    timeouts = 0 if request.requeue is False else _TIMEOUTS
    executor = submitit.SlurmExecutor(folder, max_num_timeout=timeouts)
    executor.update_parameters(job_name="carl", setup=_setup(plan), **request.parameters())
    task = ShardTask(plan.work, request.tasks)
    jobs = _sent(lambda: executor.map_array(task, range(1, request.tasks + 1)))
    name: str = jobs[0].job_id.split("_")[0]
    return name


def _send_summary(
    submitit: Any, folder: Path, plan: Plan, request: Request, job: str
) -> str | None:
    """The parts are on their way: a refusal is told, and does not stop them."""
    executor = submitit.SlurmExecutor(folder)
    modest = _modest(request.parameters(), job)
    executor.update_parameters(job_name="carl-summary", setup=_setup(plan), **modest)
    try:
        name: str = _sent(lambda: executor.submit(SummaryTask(plan.work))).job_id
    except UsageError as error:
        LOGGER.warning("%s: once all parts are done, run carl batch with --summary", error.message)
        return None
    return name


def _submitit() -> Any:
    if shutil.which("sbatch") is None:
        raise UsageError(
            "--executor slurm: there is no sbatch here", "submit from a login node of the cluster"
        )
    try:
        import submitit
    except ImportError as error:
        raise UsageError(
            f"--executor slurm needs submitit: {error}",
            "pip install 'carl-registration[cluster]'",
        ) from error
    return submitit


def _check_idle(out_dir: Path) -> None:
    """Two tasks on one part would write the same files."""
    for entry in submissions(out_dir):
        if alive(entry):
            raise UsageError(
                f"job {entry.job} still works on {out_dir}",
                f"wait for it, or: carl batch cancel {out_dir}",
            )


def _setup(plan: Plan) -> list[str]:
    """Lines of the job's script before anything else: one clear line if the node can't do it."""
    python = shlex.quote(sys.executable)
    checked = shlex.join([versions(), str(plan.weights), str(plan.out_dir.absolute())])
    missing = shlex.quote(f": no Python at {sys.executable}: install carl where the nodes see it")
    return [
        f'test -x {python} || {{ echo "error: $(hostname)"{missing} >&2; exit 3; }}',
        f"{python} -m carl_cli.cli.node {checked} || exit",
    ]


def _modest(parameters: Mapping[str, Any], job: str) -> dict[str, Any]:
    """What the merging needs: no GPU, one core, some minutes, all parts ended."""
    dropped = ("gpus_per_node", "cpus_per_task", "srun_args", "array_parallelism")
    kept = {name: value for name, value in parameters.items() if name not in dropped}
    minutes = min(parameters["time"], _SUMMARY_MINUTES)
    return {**kept, "time": minutes, "dependency": f"afterany:{job}"}


def _sent(call: Callable[[], Any]) -> Any:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return call()
    except (FailedJobError, FailedSubmissionError) as error:
        raise UsageError(f"sbatch refused: {' '.join(str(error).split())}") from error

"""`carl batch status` and `carl batch cancel`: a batch seen from its folder, and its jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from carl_cli.batch.slurm.overview import JobState


def batch_status(
    folder: Annotated[Path, typer.Argument(help="The --out-dir of the batch.")],
) -> None:
    """Say how many cases are done, failed, running and waiting, and what their jobs do.

    The counts come from the status tables in the folder: Slurm need not be there. Cases that
    failed are listed with their error, tasks that ended badly with their log.
    """
    from carl_cli.batch.slurm.overview import overview

    found = overview(folder)
    for state, count in found.counts.items():
        if count or state in ("done", "failed"):
            typer.echo(f"{state} {count}")
    for row in found.failed:
        typer.echo(f"failed: {row.id}: {row.error}")
    for job in found.jobs:
        _tell(folder, job)


def _tell(folder: Path, job: JobState) -> None:
    from carl_cli.batch.slurm.overview import log_of

    words = ", ".join(f"{count} {state}" for state, count in sorted(job.counts.items()))
    typer.echo(f"job {job.submission.job}: {words}")
    for task, state in job.bad.items():
        typer.echo(f"task {task}: {state}, see {log_of(folder, task)}")


def batch_cancel(
    folder: Annotated[Path, typer.Argument(help="The --out-dir of the batch.")],
) -> None:
    """Cancel the jobs that `carl batch --executor slurm` has in the queue.

    What is finished stays; the same command submits the rest again.
    """
    from carl_cli.batch.slurm.jobs import cancel_jobs

    cancelled = cancel_jobs(folder)
    for job in cancelled:
        typer.echo(f"cancelled {job}")
    if not cancelled:
        typer.echo("nothing to cancel")

"""`carl batch cancel`: the jobs of a batch taken from the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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

"""The arguments of `carl batch --executor slurm`, and what they come to."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from carl_cli.cli.options.batch import FolderArguments, ScheduleArguments, TableArguments
from carl_cli.errors import UsageError

if TYPE_CHECKING:
    from carl_cli.batch.slurm.request import Request
    from carl_cli.cli.options.method import MethodArguments

CLUSTER = "On a cluster, with --executor slurm"
DEFAULT_TASKS = 8


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=CLUSTER, **more)


@dataclass(frozen=True)
class ClusterArguments:
    executor: Annotated[
        Literal["local", "slurm"],
        _option("--executor", help="slurm submits an array of tasks; each does a part."),
    ] = "local"
    tasks: Annotated[
        int | None,
        _option(
            "--tasks",
            min=1,
            help=f"Parts, at most one a pair. Default: --max-parallel, else {DEFAULT_TASKS}.",
        ),
    ] = None
    max_parallel: Annotated[
        int | None, _option("--max-parallel", min=1, help="Tasks at once. Default: all.")
    ] = None
    partition: Annotated[str | None, _option("--partition", help="Where to run.")] = None
    gpus: Annotated[int | None, _option("--gpus", min=1, help="GPUs of a task.")] = None
    cpus: Annotated[int | None, _option("--cpus", min=1, help="Cores of a task.")] = None
    mem: Annotated[str | None, _option("--mem", help="Memory of a task, as in 16G.")] = None
    time: Annotated[
        str | None, _option("--time", help="Limit of a task, as in 04:00:00, its default.")
    ] = None
    requeue: Annotated[
        bool | None,
        _option(
            "--requeue/--no-requeue",
            help="A task that is preempted or out of time goes on later. Default: the cluster's.",
            show_default=False,
        ),
    ] = None
    sbatch: Annotated[
        list[str] | None,
        _option("--sbatch", help="Any other option of sbatch, as in account=lab; repeatable."),
    ] = None


def check_cluster(
    cluster: ClusterArguments, folder: FolderArguments, schedule: ScheduleArguments
) -> None:
    """Raise UsageError for options that need Slurm or contradict it."""
    if cluster.executor == "local":
        given = [name for name, value in vars(cluster).items() if value not in (None, "local")]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise UsageError(f"{option} was given without a cluster", "add --executor slurm")
        return
    for option, wanted in (("--shard", schedule.shard), ("--summary", schedule.summary)):
        if wanted:
            raise UsageError(
                f"{option} and --executor slurm were both given", f"leave out {option}"
            )
    if folder.overwrite:
        raise UsageError(
            "--overwrite and --executor slurm were both given",
            "a requeued task would begin anew: remove what is there, or take another --out-dir",
        )


def submit(
    cluster: ClusterArguments,
    cases: int,
    table: TableArguments,
    folder: FolderArguments,
    schedule: ScheduleArguments,
    method: MethodArguments,
) -> None:
    """Hand the batch to Slurm and say the number of its job."""
    from carl_cli.batch.slurm.submit import Plan
    from carl_cli.batch.slurm.submit import submit as hand_over
    from carl_cli.cli import console
    from carl_cli.weights.locate import locate

    weights = locate(method.network.weights, method.network.offline).absolute()
    network = replace(method.network, weights=str(weights))
    # Each task has a log of its own.
    method = replace(method, network=network, run=replace(method.run, log_file=None))
    work = Work(Path.cwd(), table, folder, schedule, method)
    new = hand_over(Plan(folder.out_dir, weights, work, cases), _request(cluster, cases))
    console.LOGGER.info(
        "%d cases in %d tasks; carl batch status %s", cases, new.tasks, folder.out_dir
    )
    typer.echo(f"job {new.job}")


@dataclass(frozen=True)
class Work:
    """`carl batch` with these options on a node; relative paths start where it was submitted."""

    submitted_in: Path
    table: TableArguments
    folder: FolderArguments
    schedule: ScheduleArguments
    method: MethodArguments

    def __call__(self, shard: str | None) -> int:
        """Do a part, or merge all parts for None; returns the exit code."""
        from carl_cli.cli.batch import run_batch
        from carl_cli.cli.boundary import exit_code_of

        with suppress(OSError):  # without it relative paths find nothing, and absolute ones do
            os.chdir(self.submitted_in)
        schedule = self._schedule(shard)
        return exit_code_of(
            lambda: run_batch(self.table, self.folder, schedule, ClusterArguments(), self.method)
        )

    def _schedule(self, shard: str | None) -> ScheduleArguments:
        if shard is None:
            return replace(self.schedule, resume=False, retry_failed=False, summary=True)
        # What a task had finished before it was preempted is not done again.
        return replace(self.schedule, resume=not self.schedule.retry_failed, shard=shard)


def _request(cluster: ClusterArguments, cases: int) -> Request:
    from carl_cli.batch.slurm.request import Request, minutes_of, other_options

    return Request(
        tasks=min(cases, cluster.tasks or cluster.max_parallel or DEFAULT_TASKS),
        minutes=minutes_of(cluster.time or "04:00:00"),
        partition=cluster.partition,
        gpus=cluster.gpus,
        cpus=cluster.cpus,
        memory=cluster.mem,
        max_parallel=cluster.max_parallel,
        requeue=cluster.requeue,
        others=other_options(cluster.sbatch or ()),
    )

"""The arguments of `carl batch --executor slurm`, and what they come to."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carl_cli.cli.options.batch import FolderArguments, ScheduleArguments, TableArguments
from carl_cli.cli.options.described import option
from carl_cli.errors import UsageError

if TYPE_CHECKING:
    from carl_cli.batch.slurm.request import Request
    from carl_cli.cli.options.method import MethodArguments

CLUSTER = "On a cluster, with --executor slurm"
DEFAULT_TASKS = 8


@dataclass(frozen=True)
class ClusterArguments:
    executor: Annotated[
        Literal["local", "slurm"],
        option(
            CLUSTER,
            "--executor",
            help="slurm submits an array of tasks, each of which does a part.",
        ),
    ] = "local"
    tasks: Annotated[
        int | None,
        option(
            CLUSTER,
            "--tasks",
            min=1,
            help="Number of tasks, at most one a pair. Default: --max-parallel, else "
            f"{DEFAULT_TASKS}.",
        ),
    ] = None
    max_parallel: Annotated[
        int | None,
        option(CLUSTER, "--max-parallel", min=1, help="Most tasks that run at once. Default: all."),
    ] = None
    partition: Annotated[
        str | None, option(CLUSTER, "--partition", help="Partition to run on.")
    ] = None
    gpus: Annotated[int | None, option(CLUSTER, "--gpus", min=1, help="GPUs for each task.")] = None
    cpus: Annotated[int | None, option(CLUSTER, "--cpus", min=1, help="Cores for each task.")] = (
        None
    )
    mem: Annotated[
        str | None, option(CLUSTER, "--mem", help="Memory for each task, as in 16G.")
    ] = None
    time: Annotated[
        str | None, option(CLUSTER, "--time", help="Time limit of each task. Default: 04:00:00.")
    ] = None
    requeue: Annotated[
        bool | None,
        option(
            CLUSTER,
            "--requeue/--no-requeue",
            help="Whether a task that is preempted or out of time continues later. "
            "Default: as the cluster does.",
            show_default=False,
        ),
    ] = None
    sbatch: Annotated[
        list[str] | None,
        option(CLUSTER, "--sbatch", help="Any other sbatch option, as in account=lab; repeatable."),
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
            "a requeued task would start over: remove what is there, or choose another --out-dir",
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

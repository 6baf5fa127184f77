"""Options in groups: a command gets what was given, and so does a task that it submits."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from carl_cli.cli.options.batch import FolderArguments, ScheduleArguments, TableArguments
from carl_cli.cli.options.grouping import grouped
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.slurm import ClusterArguments, Work

WORDS = (
    *("pairs.csv", "-o", "out", "--no-warped", "--jacobian", "--workers", "2", "--keep-going"),
    *("--weights", "folder with space", "--io", "--io-lr", "1e-3", "--window", "-1000", "400"),
    *("-x", "mask.nii.gz", "--init", "centers", "--threads", "3", "--time-index", "0"),
    *("--executor", "slurm", "--no-requeue", "--sbatch", "account=lab", "--sbatch", "exclusive"),
)


def parsed(words: list[str]) -> tuple[Any, ...]:
    """The groups that a command of `carl batch`'s kind gets from these words."""
    found: list[Any] = []

    @grouped
    def command(
        table: TableArguments,
        folder: FolderArguments,
        schedule: ScheduleArguments,
        cluster: ClusterArguments,
        method: MethodArguments,
    ) -> None:
        """Keep them."""
        found.extend((table, folder, schedule, cluster, method))

    app = typer.Typer()
    app.command()(command)
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    return tuple(found)


def test_each_group_gets_its_own() -> None:
    table, folder, schedule, cluster, method = parsed(list(WORDS))
    assert (table.pairs, folder.out_dir) == (Path("pairs.csv"), Path("out"))
    assert (folder.warped, folder.jacobian, cluster.requeue) == (False, True, False)
    assert (schedule.workers, method.network.weights) == (2, "folder with space")
    assert method.files.values["fixed_mask"] == Path("mask.nii.gz")
    assert cluster.sbatch == ["account=lab", "exclusive"]
    assert method.images.window == (-1000.0, 400.0)
    assert method.files.values["time_index"] == 0


def test_a_task_on_a_cluster_gets_the_same_groups() -> None:
    """Pickled and read again; it never begins with what another one has finished."""
    table, folder, schedule, _, method = parsed(list(WORDS))
    work = pickle.loads(pickle.dumps(Work(Path.cwd(), table, folder, schedule, method)))
    assert work == Work(Path.cwd(), table, folder, schedule, method)
    assert work._schedule("2/8") == replace(schedule, shard="2/8", resume=True)
    assert work._schedule(None) == replace(schedule, summary=True)
    again = replace(work, schedule=replace(schedule, retry_failed=True))
    assert again._schedule("2/8") == replace(schedule, shard="2/8", retry_failed=True)
    assert again._schedule(None) == replace(schedule, summary=True)

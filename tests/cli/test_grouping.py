"""Options in groups: what was given can be spelled again, word for word in its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from carl_cli.cli.options.batch import FolderArguments, ScheduleArguments, TableArguments
from carl_cli.cli.options.grouping import grouped, spelled
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.slurm import ClusterArguments

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


def test_spelled_options_parse_to_the_same_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths become absolute, so a second spelling is the first word for word."""
    monkeypatch.chdir(tmp_path)
    groups = parsed(list(WORDS))
    words = [word for group in groups for word in spelled(group)]
    again = parsed(words)
    assert [word for group in again for word in spelled(group)] == words
    table, folder, schedule, cluster, method = again
    assert (table.pairs, folder.out_dir) == (tmp_path / "pairs.csv", tmp_path / "out")
    assert method.paths() == {"fixed_mask": tmp_path / "mask.nii.gz"}
    assert (schedule, cluster, method.network, method.instance, method.start, method.run) == (
        groups[2],
        groups[3],
        *(getattr(groups[4], name) for name in ("network", "instance", "start", "run")),
    )
    assert (folder.warped, folder.jacobian, cluster.requeue) == (False, True, False)
    assert cluster.sbatch == ["account=lab", "exclusive"]
    assert method.images.window == (-1000.0, 400.0)
    assert method.files.values["time_index"] == 0


def test_defaults_are_left_out() -> None:
    assert spelled(FolderArguments(Path("/out"))) == ["--out-dir", "/out"]
    assert spelled(MethodArguments()) == []

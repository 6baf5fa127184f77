"""The ready scripts: their syntax, the options they use, and the scripts as they run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.batch.conftest import Study, states

SCRIPTS = Path(__file__).parents[2] / "examples" / "batch"
SHELL = sorted(path for path in SCRIPTS.iterdir() if path.suffix in (".sh", ".slurm"))


def environment(folder: Path, *options: object) -> dict[str, str]:
    """PATH begins with a `carl` that runs this source, with more options at its end."""
    shim = folder / "bin" / "carl"
    shim.parent.mkdir(exist_ok=True)
    more = " ".join(str(option) for option in options)
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m carl_cli.cli.app "$@" {more}\n')
    shim.chmod(0o755)
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(SCRIPTS.parents[1])}


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_bash_takes_the_script(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("loop.sh", ["out", "one.csv", "two.tsv"]),
        ("array.slurm", ["one.csv", "out", "--retry-failed"]),
    ],
)
def test_scripts_call_carl_with_options_that_it_has(
    tmp_path: Path, name: str, arguments: list[str]
) -> None:
    """A `carl` that parses its arguments and finds no table: 3, where a wrong option gives 2."""
    done = subprocess.run(
        ["bash", SCRIPTS / name, *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert "one.csv" in done.stderr


@pytest.mark.parametrize("name", ["carl.nf", "Snakefile", "parallel.sh"])
def test_workflows_use_options_that_carl_has(name: str) -> None:
    reference = (SCRIPTS.parents[1] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    ours = reference.partition("## carl batch\n")[2].partition("\n## ")[0]
    calls = (SCRIPTS / name).read_text(encoding="utf-8").partition("carl batch ")[2]
    used = set(re.findall(r"(?<!\S)--[a-z-]+", calls))
    assert used == {"--out-dir", "--resume", "--threads", "--shard", "--summary"}
    assert all(f"`{option}`" in ours for option in used)


def run(study: Study, *command: object) -> str:
    """What the script said; the cases of `pairs.csv` are done in the folder `pairs`, once."""
    options = ("--weights", study.weights, "--device", "cpu", "--threads", 1)
    done = subprocess.run(
        [str(word) for word in command],
        cwd=study.folder,
        env=environment(study.folder, *options),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert states(study.folder / "pairs/summary.csv") == dict.fromkeys(("ab", "bc", "cd"), "done")
    return done.stdout + done.stderr


def needed(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.mark.slow
def test_the_loop(study: Study) -> None:
    assert "done 3" in run(study, "bash", SCRIPTS / "loop.sh", ".", study.pairs(3))


@pytest.mark.slow
def test_gnu_parallel(study: Study) -> None:
    needed("parallel")
    said = run(study, "bash", SCRIPTS / "parallel.sh", study.pairs(3), "pairs")
    assert len(list(study.folder.glob("pairs/shards/*-of-4/status.csv"))) == 4
    assert "done 3" in said


@pytest.mark.slow
def test_snakemake(study: Study) -> None:
    """Run a second time, it has nothing to do."""
    needed("snakemake")
    config = (f"table={study.pairs(3)}", "results=pairs", "parts=2")
    command = ("snakemake", "--snakefile", SCRIPTS / "Snakefile", "--cores", 2, "--config", *config)
    assert "(100%) done" in run(study, *command)
    assert "Nothing to be done" in run(study, *command)

"""The ready scripts: their syntax, and the loop as it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "examples" / "batch"


@pytest.mark.parametrize("script", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
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
    shim = tmp_path / "bin" / "carl"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m carl_cli.cli.app "$@"\n')
    shim.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(SCRIPTS.parents[1]),
    }
    done = subprocess.run(
        ["bash", SCRIPTS / name, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert "one.csv" in done.stderr

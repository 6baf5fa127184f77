"""examples/training/train.slurm: what was stopped is queued again, what failed is not.

A stand-in for srun starts the tasks; in the tests marked `cluster` the real one does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from carl_cli.training.run_folder import load_state
from tests.batch.slurm.conftest import slurm_cores  # noqa: F401 (a fixture)
from tests.batch.slurm.test_slurm import slurm, wait_until
from tests.batch.test_scripts import environment
from tests.training.test_processes import CONFIG

SCRIPT = Path(__file__).parents[2] / "examples" / "training" / "train.slurm"
# As its manual has it: each task has its numbers, and the largest exit code counts.
SRUN = """#!{python}
import os, subprocess, sys
names = ("SLURM_PROCID", "SLURM_LOCALID")
own = [dict(os.environ, SLURM_NTASKS="2", **dict.fromkeys(names, str(k))) for k in (0, 1)]
tasks = [subprocess.Popen(sys.argv[2:], env=each) for each in own]
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/sh
[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >>"$ASKED"
"""


CARL = """#!/bin/sh
echo "$MASTER_ADDR $RANK $LOCAL_RANK of $WORLD_SIZE: $@" >>"$ASKED.$RANK"
set -- {codes}
shift "$RANK"
exit "$1"
"""


def job(folder: Path, *options: str, carl: str = "") -> tuple[int, list[str]]:
    """The exit code of the script as Slurm would run it, and what was asked of scontrol."""
    names = environment(folder, "--threads 1 -q")
    if carl:
        (folder / "bin" / "carl").write_text(carl)
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    asked = folder / "asked"
    asked.write_text("")
    names |= {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "ASKED": str(asked)}
    command = ["bash", SCRIPT, "config.toml", "--out", "run", *options]
    ended = subprocess.run(command, cwd=folder, env=names, capture_output=True, text=True)
    return ended.returncode, asked.read_text().splitlines()


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


@pytest.mark.parametrize(
    ("codes", "joint"), [("0 0", 0), ("75 75", 75), ("0 75", 75), ("1 1", 1), ("75 137", 137)]
)
def test_only_a_run_that_was_stopped_in_order_is_queued_again(
    codes: str, joint: int, tmp_path: Path
) -> None:
    told = job(tmp_path, "--seed", "a b", carl=CARL.format(codes=codes))
    assert told == (joint, ["requeue 17"] if joint == 75 else [])
    words = "train config.toml --out run --seed a b --resume"
    for rank in (0, 1):
        line = (tmp_path / f"asked.{rank}").read_text()
        assert line == f"127.0.0.1 {rank} {rank} of 2: {words}\n"


@pytest.mark.slow
def test_a_job_that_ran_out_of_time_ends_as_one_that_had_enough(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG.replace("steps = 60", "steps = 30"))
    assert job(tmp_path, "--max-seconds", "1") == (75, ["requeue 17"])
    assert 0 < load_state(tmp_path / "run", "last")["at"]["total"] < 30
    assert job(tmp_path) == (0, [])
    assert len(losses(tmp_path / "run")) == 30


def state_of(number: str) -> str:
    return slurm("scontrol", "show", "job", number).partition("JobState=")[2].split()[0]


# Waits to be stopped; started again, it ends as one that has finished.
STOPPED = """#!/bin/sh
trap 'exit {code}' TERM
[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit 0
touch "begun.$RANK.of.$WORLD_SIZE"
while true; do sleep 0.1; done
"""


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("code", "end", "restarts"), [(75, "COMPLETED", 1), (1, "FAILED", 0)], ids=["75", "1"]
)
def test_on_a_cluster(
    code: int,
    end: str,
    restarts: int,
    tmp_path: Path,
    slurm_cores: int,  # noqa: F811
) -> None:
    """SIGTERM, as Slurm sends it before the time is up, to both tasks of the job."""
    names = environment(tmp_path)
    (tmp_path / "bin" / "carl").write_text(STOPPED.format(code=code))
    flags = ("--parsable", "--ntasks=2", "--overcommit", "--mem=1G", f"--chdir={tmp_path}")
    words = [*flags, "--export=ALL,SLURM_OVERCOMMIT=1", str(SCRIPT), "config.toml"]
    asked = subprocess.run(
        ["sbatch", *words], env=names, capture_output=True, text=True, check=True
    )
    number = asked.stdout.strip()
    try:
        begun = [tmp_path / f"begun.{rank}.of.2" for rank in (0, 1)]
        wait_until(lambda: all(path.exists() for path in begun), "both tasks")
        slurm("scancel", "--signal=TERM", number)
        if restarts:
            wait_until(lambda: state_of(number) == "PENDING", "a requeue")
            slurm("scontrol", "update", f"jobid={number}", "starttime=now")
        wait_until(lambda: state_of(number) == end, end)
        assert f"Restarts={restarts}" in slurm("scontrol", "show", "job", number)
    finally:
        subprocess.run(["scancel", number], capture_output=True)

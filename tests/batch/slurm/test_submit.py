"""What is handed to Slurm, seen through programs that stand for sbatch and srun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from carl_cli.batch.slurm.jobs import FOLDER, submissions
from carl_cli.batch.slurm.node import ShardTask, SummaryTask, Work, check_node, versions
from carl_cli.batch.slurm.request import Request, minutes_of, other_options
from carl_cli.errors import InputError, OutputError, UsageError, WeightsError
from tests.batch.conftest import Study, states

SBATCH = """#!/bin/sh
echo "$@" >> {notes}
echo Submitted batch job $((40 + $(wc -l < {notes})))
"""
SRUN = """#!/bin/sh
while [ "$1" != "{python}" ]; do shift; done
exec "$@"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sbatch that numbers jobs from 41, srun that runs its command here; squeue knows nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {"sbatch": SBATCH, "srun": SRUN, "squeue": "#!/bin/sh\n", "sacct": "#!/bin/sh\n"}
    for name, text in texts.items():
        filled = text.format(notes=tmp_path / "sent", python=sys.executable)
        (folder / name).write_text(filled)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def script(out: Path, job: int) -> list[str]:
    return (out / FOLDER / f"{job}_submission.sh").read_text().splitlines()


def test_the_array_and_the_job_after_it(study: Study, programs: Path) -> None:
    out = study.folder / "out"
    asked = ("--max-parallel", 2, "--tasks", 3, "--partition", "long", "--gpus", 1, "--cpus", 4)
    more = ("--mem", "16G", "--time", "1-00:30:01", "--requeue", "--sbatch", "account=lab")
    told = study.batch(study.pairs(4), out, "--executor", "slurm", *asked, *more)
    assert (told.code, told.out) == (0, "job 41\n")
    lines = script(out, 41)
    for words in (
        *("array=0-2%2", "partition=long", "gpus-per-node=1", "cpus-per-task=4", "mem=16G"),
        *("time=1471", "requeue", "account=lab", "open-mode=append", "signal=USR2@90"),
    ):
        assert f"#SBATCH --{words}" in lines
    assert "--cpus-per-task=4" in lines[-1]
    after = script(out, 42)
    assert "#SBATCH --dependency=afterany:41" in after
    assert not [line for line in after if "--gpus" in line or "--array" in line]
    entry = submissions(out)[0]
    assert (entry.job, entry.tasks, entry.cases, entry.summary) == ("41", 3, 4, "42")


def test_never_more_tasks_than_pairs_and_a_single_one_is_no_array(
    study: Study, programs: Path
) -> None:
    out = study.folder / "out"
    assert study.batch(study.pairs(1), out, "--executor", "slurm").code == 0
    assert not [line for line in script(out, 41) if "--array" in line]
    assert submissions(out)[0].task_ids() == ["41"]


def test_the_script_does_its_part(
    study: Study, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run by hand with a task's variables and elsewhere, paths being relative: node checked, part
    done, failure in the exit code."""
    out = study.folder / "out"
    lines = ("fixed,moving", "a.nii.gz,gone.nii.gz", "a.nii.gz,c.nii.gz", "a.nii.gz,b.nii.gz")
    table = study.table(*lines)
    monkeypatch.chdir(study.folder)
    options = ("--executor", "slurm", "--tasks", 2, "--keep-going")
    assert study.batch(Path(table.name), Path(out.name), *options).code == 0
    slurm = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(
        ["bash", out / FOLDER / "41_submission.sh"],
        env={**os.environ, **slurm, "SLURM_NTASKS": "1"},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 6, done.stderr
    assert states(out / "shards/1-of-2/status.csv") == {"(line 2)": "failed", "b_to_a": "done"}
    assert not (out / "shards/2-of-2").exists()


def test_a_node_that_lacks_something_says_so_in_one_line(study: Study, programs: Path) -> None:
    """Before anything is loaded, and with the exit code of what is missing."""
    out = study.folder / "out"
    copy = study.folder / "weights"
    copy.mkdir()
    for file in study.weights.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    study.batch(study.pairs(2), out, "--executor", "slurm", "--weights", copy)
    (copy / "model.safetensors").unlink()
    command = ["bash", out / FOLDER / "41_submission.sh"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4
    error, hint = done.stderr.splitlines()
    assert error.endswith(f"{copy}/model.safetensors: No such file or directory")
    assert hint.startswith("hint: ")


def test_checks_on_the_node(tmp_path: Path, batch_weights: Path) -> None:
    check_node(versions(), batch_weights, tmp_path)
    with pytest.raises(InputError, match="submitted with carl 0"):
        check_node("carl 0 on Python 3.1", batch_weights, tmp_path)
    with pytest.raises(WeightsError, match=r"config\.json: No such file"):
        check_node(versions(), tmp_path, tmp_path)
    with pytest.raises(OutputError, match="nothing can be written"):
        check_node(versions(), batch_weights, tmp_path / "absent")


def end_with(code: int, shard: str | None) -> int:
    return code


def end_by(number: int, shard: str | None) -> int:
    os.kill(os.getpid(), number)
    return 0


def tell_place(shard: str | None) -> int:
    """Both signals that may be Slurm's warning come first."""
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    return {"1/2": 21, None: 22}[shard]


@pytest.mark.parametrize(
    ("work", "waits", "code"),
    [
        (partial(end_with, 6), False, 6),
        (partial(end_with, 143), True, 143),
        (partial(end_by, signal.SIGTERM), True, 143),
        (partial(end_by, signal.SIGKILL), False, 137),
    ],
)
def test_a_part_that_slurm_ends_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch, work: Work, waits: bool, code: int
) -> None:
    """carl itself ends with 128 + SIGTERM; a task that then ended too would count as failed."""
    waited: list[float] = []
    monkeypatch.setattr("carl_cli.batch.slurm.node.time.sleep", waited.append)
    with pytest.raises(SystemExit) as stop:
        ShardTask(work, 2)(1)
    assert (stop.value.code, bool(waited)) == (code, waits)


def test_a_part_hears_no_warning_and_is_told_its_place() -> None:
    for task, code in ((partial(ShardTask(tell_place, 2), 1), 21), (SummaryTask(tell_place), 22)):
        with pytest.raises(SystemExit) as stop:
            task()
        assert stop.value.code == code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", 1), "--gpus was given without a cluster"),
        (("--executor", "slurm", "--overwrite"), "--overwrite and --executor slurm"),
        (("--executor", "slurm", "--shard", "1/2"), "--shard and --executor slurm"),
        (("--executor", "slurm", "--time", "soon"), "--time soon"),
    ],
)
def test_choices_that_contradict_each_other(
    study: Study, programs: Path, options: tuple[object, ...], message: str
) -> None:
    told = study.batch(study.pairs(1), study.folder / "out", *options)
    assert told.code == 2
    assert told.err.startswith(f"error: {message}")
    assert not (study.folder / "out").exists()


def test_without_slurm_or_submitit(
    study: Study, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, out = study.pairs(1), study.folder / "out"
    monkeypatch.setitem(sys.modules, "submitit", None)
    told = study.batch(table, out, "--executor", "slurm")
    assert (told.code, "pip install 'carl-registration[cluster]'" in told.err) == (2, True)
    monkeypatch.setenv("PATH", str(study.folder))
    told = study.batch(table, out, "--executor", "slurm")
    assert (told.code, "there is no sbatch here" in told.err) == (2, True)


def test_without_the_job_after_it_the_array_is_still_known(study: Study, programs: Path) -> None:
    """A quota of one job: the array runs, and can be cancelled."""
    once = 'grep -q carl-summary "$1" && echo no more jobs >&2 && exit 1\necho job 41\n'
    (programs / "sbatch").write_text(f"#!/bin/sh\n{once}")
    told = study.batch(study.pairs(2), study.folder / "out", "--executor", "slurm")
    assert (told.code, told.out) == (0, "job 41\n")
    assert "no more jobs" in told.err
    assert "--summary" in told.err
    (entry,) = submissions(study.folder / "out")
    assert (entry.job, entry.summary) == ("41", None)


def test_a_batch_that_still_runs_and_a_refusal(study: Study, programs: Path) -> None:
    table, out = study.pairs(2), study.folder / "out"
    assert study.batch(table, out, "--executor", "slurm").code == 0
    (programs / "squeue").write_text("#!/bin/sh\necho '41_0|RUNNING'\n")
    told = study.batch(table, out, "--executor", "slurm")
    assert (told.code, "job 41 still works on" in told.err) == (2, True)
    (programs / "squeue").write_text("#!/bin/sh\n")
    (programs / "sbatch").write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
    told = study.batch(table, out, "--executor", "slurm")
    assert (told.code, "sbatch refused" in told.err) == (2, True)
    assert "no such partition" in told.err
    assert len(submissions(out)) == 1


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *(("90", 90), ("90:30", 91), ("04:00:00", 240), ("0:0:1", 1)),
        *(("2-0", 2880), ("1-12", 2160), ("1-0:30", 1470), ("1-00:30:01", 1471)),
    ],
)
def test_time_limits_as_slurm_spells_them(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "0", "1:2:3:4", "-1", "4h"])
def test_time_limits_that_slurm_does_not_know(text: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        minutes_of(text)


def test_silence_leaves_the_choice_to_the_cluster() -> None:
    parameters = Request(tasks=2, minutes=3).parameters()
    assert not {"partition", "gpus_per_node", "cpus_per_task", "mem"} & set(parameters)
    assert parameters["additional_parameters"] == {}
    assert parameters["signal_delay_s"] == 30
    never = Request(tasks=2, minutes=3, requeue=False, others=other_options(["--exclusive"]))
    assert never.parameters()["additional_parameters"] == {"no-requeue": True, "exclusive": True}

"""How far a batch is, told from its folder and from what Slurm's programs answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from carl_cli.batch.shards import Shard
from carl_cli.batch.slurm.jobs import FILE, FOLDER, Submission, note_submission, submissions
from carl_cli.batch.status import StatusRow, StatusTable
from tests.cli.conftest import Carl, carl  # noqa: F401 (a fixture)

ROWS = (
    StatusRow(id="a", line=2, state="done"),
    StatusRow(id="b", line=3, state="failed", error="b.nii.gz: no such file"),
    StatusRow(id="c", line=4, state="running"),
    StatusRow(id="d", line=5),
)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch's folder with four of five cases in rows; no Slurm in PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    folder = tmp_path / "out"
    StatusTable(folder, Shard(1, 2)).open(ROWS[:2])
    StatusTable(folder, Shard(2, 2)).open(ROWS[2:])
    return folder


def submit(out: Path, **more: object) -> None:
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    note_submission(out, Submission(job="7", tasks=2, cases=5, **more))


def slurm(out: Path, **answers: str) -> Path:
    """Programs of Slurm that print these answers, and note how they were called."""
    notes = out.parent / "calls"
    for name, text in answers.items():
        program = out.parent / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {notes}\nprintf "{text}"\n')
        program.chmod(0o755)
    return notes


def test_rows_alone(out: Path, carl: Carl) -> None:  # noqa: F811
    told = carl("batch", "status", out)
    assert told.code == 0
    assert told.out.splitlines() == [
        "done 1",
        "failed 1",
        "running 1",
        "waiting 1",
        "failed: b: b.nii.gz: no such file",
    ]


def test_jobs_without_slurm_are_unknown_and_their_cases_counted(out: Path, carl: Carl) -> None:  # noqa: F811
    submit(out)
    lines = carl("batch", "status", out).out.splitlines()
    assert lines[:4] == ["done 1", "failed 1", "running 1", "waiting 2"]
    assert lines[-1] == "job 7: 2 unknown"


def test_squeue_is_asked_first_and_sacct_for_what_it_has_forgotten(out: Path, carl: Carl) -> None:  # noqa: F811
    submit(out)
    calls = slurm(
        out, squeue="7_1|RUNNING\\n", sacct="7_0|CANCELLED by 1000\\n7_0.batch|CANCELLED\\n7_1|X\\n"
    )
    lines = carl("batch", "status", out).out.splitlines()
    assert "running 1" in lines
    assert lines[-2:] == [
        "job 7: 1 CANCELLED, 1 RUNNING",
        f"task 7_0: CANCELLED, see {out}/shards/slurm/7_0_0_log.out",
    ]
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["squeue", "sacct"]


def test_what_runs_in_no_living_job_was_interrupted(out: Path, carl: Carl) -> None:  # noqa: F811
    submit(out)
    slurm(out, squeue="7_0|COMPLETED\\n7_1|NODE_FAIL\\n")
    assert "interrupted 1" in carl("batch", "status", out).out.splitlines()


def test_cancel_takes_what_goes_on_and_the_job_that_waits_for_it(out: Path, carl: Carl) -> None:  # noqa: F811
    submit(out, summary="8")
    calls = slurm(out, squeue="7_0|COMPLETED\\n7_1|PENDING\\n", scancel="")
    assert carl("batch", "cancel", out).out == "cancelled 7\n"
    assert calls.read_text().splitlines()[-1] == "scancel 7 8"
    slurm(out, squeue="7_0|COMPLETED\\n7_1|CANCELLED\\n", scancel="")
    assert carl("batch", "cancel", out).out == "nothing to cancel\n"


def test_cancel_without_slurm_or_jobs(out: Path, carl: Carl) -> None:  # noqa: F811
    assert carl("batch", "cancel", out).code == 3
    submit(out)
    told = carl("batch", "cancel", out)
    assert (told.code, told.err.splitlines()[0]) == (2, "error: there is no scancel here")


def test_folders_without_a_batch_and_damaged_lists(out: Path, carl: Carl) -> None:  # noqa: F811
    empty = carl("batch", "status", out.parent / "bin")
    assert (empty.code, "holds no batch" in empty.err) == (3, True)
    submit(out)
    submit(out)
    assert [entry.job for entry in submissions(out)] == ["7", "7"]
    (out / FOLDER / FILE).write_text("{}\n")
    damaged = carl("batch", "status", out)
    assert (damaged.code, "list of jobs" in damaged.err) == (3, True)

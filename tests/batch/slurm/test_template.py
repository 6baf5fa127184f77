"""Rounds of a template on Slurm: on a real one, and seen through programs that stand for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from carl_cli.batch.slurm.jobs import submissions, task_states
from carl_cli.cli import template as command
from tests.batch.conftest import Study, digests
from tests.batch.slurm.test_submit import SBATCH, SRUN
from tests.cli.conftest import Outcome
from tests.workflows.conftest import identity_weights  # noqa: F401 (a fixture)
from tests.workflows.test_template import FILES, of_two_contrasts, words

SQUEUE = """#!/bin/sh
# The first time that anyone asks for a job, its tasks are run, one after the other.
job=${{1#--jobs=}}
script=$(find {folder} -name "${{job}}_submission.sh")
if [ -n "$script" ] && [ ! -e "$script.ran" ]; then
  touch "$script.ran"
  for task in 0 1; do
    SLURM_JOB_ID=$job SLURM_ARRAY_JOB_ID=$job SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 \\
      bash "$script" > "$script.$task" 2>&1
  done
fi
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster that does an array while it is first asked about it; sent: what sbatch was told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "sacct": "#!/bin/sh\n"}
    for name, text in texts.items():
        filled = text.format(notes=tmp_path / "sent", python=sys.executable, folder=tmp_path)
        (folder / name).write_text(filled)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(command, "POLL_S", 0.1)
    return tmp_path / "sent"


def built(study: Study, out: Path, *options: object) -> Outcome:
    out.parent.mkdir(exist_ok=True)
    return study.carl("template", *words(study, out, *options))


@pytest.mark.slow
@pytest.mark.parametrize("contrasts", [1, 2])
def test_rounds_on_a_cluster_end_with_the_bytes_of_local_ones(
    study: Study,
    identity_weights: Path,  # noqa: F811
    programs: Path,
    tmp_path: Path,
    contrasts: int,
) -> None:
    """Each round is an array of two tasks and a summary; resumed, nothing is submitted again."""
    quiet = Study(study.folder, identity_weights, study.carl)
    quiet, more = (quiet, ()) if contrasts == 1 else of_two_contrasts(quiet)
    here, there = tmp_path / "here" / "t.nii.gz", tmp_path / "there" / "t.nii.gz"
    assert built(quiet, here, *more).code == 0
    asked = ("--executor", "slurm", "--tasks", 2, *more)
    told = built(quiet, there, *asked)
    assert told.code == 0, told.err
    assert digests(there.parent, *FILES) == digests(here.parent, *FILES)
    rounds = [there.parent / "t_work" / name for name in ("round-01", "round-02")]
    assert [len(submissions(folder)) for folder in rounds] == [1, 1]
    sent = programs.read_text().splitlines()
    assert len(sent) == 4
    there.unlink()
    assert built(quiet, there, *asked, "--resume").code == 0
    assert programs.read_text().splitlines() == sent
    assert digests(there.parent, *FILES) == digests(here.parent, *FILES)


@pytest.mark.cluster
@pytest.mark.parametrize("contrasts", [1, 2])
def test_a_real_cluster_builds_the_template_of_a_local_run(
    study: Study,
    identity_weights: Path,  # noqa: F811
    slurm_cores: int,
    tmp_path: Path,
    contrasts: int,
) -> None:
    """Two rounds of one task, all by Slurm: the same bytes, transforms of the rounds included."""
    assert slurm_cores > 0
    quiet = Study(study.folder, identity_weights, study.carl)
    quiet, more = (quiet, ()) if contrasts == 1 else of_two_contrasts(quiet)
    here, there = tmp_path / "here" / "t.nii.gz", tmp_path / "there" / "t.nii.gz"
    assert built(quiet, here, *more).code == 0
    asked = ("--executor", "slurm", "--tasks", 1, "--cpus", 1, "--mem", "2G", *more)
    told = built(quiet, there, *asked)
    assert told.code == 0, told.err
    assert (there.parent / "t_channel1.nii.gz").exists() == (contrasts == 2)
    for name in ("round-01", "round-02"):
        (job,) = submissions(there.parent / "t_work" / name)
        assert set(task_states(job).values()) == {"COMPLETED"}
    assert digests(there.parent, *FILES) == digests(here.parent, *FILES)

"""A run that is killed leaves nothing half done, and goes on to the bytes of an undisturbed one."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.batch import workers
from carl_cli.batch.claim import OWNER
from tests.batch.conftest import Study, digests, rows, states

FILES = ("*/*.h5", "*/*.nii.gz")
RUN = """
import os, signal, sys
os.environ["RUN"] = str(os.getpid())
if os.environ["MOMENT"] == "status":
    from carl_cli.batch.status import StatusTable
    append = StatusTable._append
    def killed(table, row):
        if row.state == "done":
            os.kill(os.getpid(), signal.SIGKILL)
        append(table, row)
    StatusTable._append = killed
from carl_cli.cli.app import main
main()
"""
EACH_PROCESS = """
import os, signal, time
replace = os.replace
def killed(source, target):
    if "RUN" in os.environ and str(target).endswith(os.environ["MOMENT"]):
        os.kill(int(os.environ["RUN"]), signal.SIGKILL)
        time.sleep(60)  # the system ends a worker with its run
    replace(source, target)
os.replace = killed
"""


def with_site(folder: Path, program: str, **more: str) -> dict[str, str]:
    """An environment in which every Python begins with this program."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(program)
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{Path.cwd()}", **more}


def arguments(study: Study, table: Path, out: Path, *more: object) -> list[str]:
    options = ("--weights", study.weights, "--device", "cpu", "--threads", 1, "--resume", *more)
    return [str(word) for word in ("batch", table, "-o", out, *options)]


def test_killed_at_any_file_it_goes_on_to_the_same_bytes(study: Study) -> None:
    """Killed with a transform finished and its image not, then with both and no record, then
    between a record and the status; each time the run begins where the one before ended."""
    table = study.pairs(3)
    assert study.batch(table, study.folder / "calm").code == 0
    out = study.folder / "out"
    for moment, files in (("warped.nii.gz", 1), ("xfm.json", 2), ("status", 3)):
        command = [sys.executable, "-c", RUN, *arguments(study, table, out)]
        environment = with_site(study.folder, EACH_PROCESS, MOMENT=moment)
        killed = subprocess.run(command, capture_output=True, env=environment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert states(out / "shards/1-of-1/status.csv")["ab"] == "running"
        assert len(list((out / "ab").glob("[!.]*"))) == files
        assert bool(list(out.rglob(".*.partial*"))) == (moment != "status")
    assert study.batch(table, out, "--resume").code == 0
    assert digests(out, *FILES) == digests(study.folder / "calm", *FILES)
    assert not list(out.rglob(".*.partial*"))
    assert states(out / "summary.csv") == {"ab": "done", "bc": "done", "cd": "done"}


def small(source: Path, target: Path) -> str:
    """A real image in about 24³ voxels, its orientation kept; returns the new file's name."""
    image = sitk.ReadImage(source)
    factors = [max(1, round(n / 24)) for n in image.GetSize()]
    sitk.WriteImage(sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors), target)
    return target.name


def real_pairs(study: Study, data: Path) -> Path:
    """24 pairs: a head in several orientations, lungs in MR, brains."""
    heads = sorted((data / "formats" / "one_head_many_orientations").glob("*.nii.gz"))[:6]
    lungs = [data / "lung_mr_lobes" / f"{name}.nii.gz" for name in ("0004", "0006", "0007")]
    slabs = [data / "brain_t1_slab_tissues" / f"t1_{k}.nii.gz" for k in (1, 2, 3)]
    brains = [*(data / "brain_t1" / f"image_{k}.nii.gz" for k in "AB"), *slabs]
    names = {
        path: small(path, study.folder / f"{kind}{number}.nii.gz")
        for kind, group in (("head", heads), ("lung", lungs), ("brain", brains))
        for number, path in enumerate(group)
    }
    pairs = [
        *itertools.islice(itertools.permutations(heads, 2), 10),
        *itertools.permutations(lungs, 2),
        *itertools.islice(itertools.permutations(brains, 2), 8),
    ]
    assert len(pairs) == 24
    lines = [f"p{k:02d},{names[a]},{names[b]}" for k, (a, b) in enumerate(pairs)]
    return study.table("id,fixed,moving", *lines)


@pytest.mark.slow
def test_real_pairs_killed_at_random_moments(study: Study, real_data_dir: Path) -> None:
    """Two workers, the whole run killed five times with -9 somewhere, and then to the end."""
    table, out = real_pairs(study, real_data_dir), study.folder / "out"
    assert study.batch(table, study.folder / "calm").code == 0
    command = [sys.executable, "-m", "carl_cli.cli.app"]
    command += arguments(study, table, out, "--workers", 2)
    chance = np.random.default_rng()
    for _ in range(5):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        ends = (line for line in process.stderr if ": done in" in line)
        next(itertools.islice(ends, int(chance.integers(0, 4)), None))
        time.sleep(chance.uniform(0, 0.7))
        process.kill()
        process.wait()
    assert 5 <= len(list(out.glob("*/*.json"))) < 24
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done 24\nfailed 0\n"), done.stderr
    assert digests(out, *FILES) == digests(study.folder / "calm", *FILES)
    assert len(digests(out, *FILES)) == 48
    assert not list(out.rglob(".*.partial*"))
    assert not list(out.rglob(OWNER))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_worker_that_dies_loses_its_case_only(study: Study, workers: int) -> None:
    """The second case's image is read by a worker that is made to kill itself over its name; a
    single worker took the batch along, and the resumed one again (issue 19)."""
    table, out = study.pairs(3), study.folder / "out"
    environment = with_site(study.folder, DEADLY_NAME)
    command = [sys.executable, "-m", "carl_cli.cli.app"]
    command += arguments(study, table, out, "--workers", workers)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 6, done.stderr
    assert done.stdout == "done 2\nfailed 1\n"
    found = rows(out / "summary.csv")
    assert {n: r["state"] for n, r in found.items()} == {"ab": "done", "bc": "failed", "cd": "done"}
    assert found["bc"]["error"].startswith("the worker was killed")


def _at_work(connection: Any) -> None:
    signal.signal(signal.SIGTERM, workers._leave)
    connection.send("begun")
    time.sleep(60)


def test_a_worker_that_was_stopped_does_not_hold_the_end_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that Ctrl-Z has stopped hears no SIGTERM (issue 19)."""
    monkeypatch.setattr(workers, "PATIENCE_S", 0.2)
    context = multiprocessing.get_context("fork")
    worker = workers._Worker(cast(Any, None))
    worker.connection, ready = context.Pipe()
    worker.jobs = {"a": cast(Any, None)}
    worker.process = context.Process(target=_at_work, args=(ready,), daemon=True)
    worker.process.start()
    assert worker.connection.recv() == "begun"
    os.kill(worker.process.pid, signal.SIGSTOP)
    worker.stop()
    assert worker.process.exitcode == -signal.SIGKILL


DEADLY_NAME = """
import os, pathlib, signal
real = pathlib.Path.mkdir
def mkdir(self, *args, **kwargs):
    if self.name == "bc":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *args, **kwargs)
pathlib.Path.mkdir = mkdir
"""

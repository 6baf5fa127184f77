"""Real registrations on a real Slurm: preempted, killed, warned, cancelled, complete in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carl_cli.batch.slurm.jobs import FOLDER, Submission, submissions, task_states
from carl_cli.batch.slurm.overview import log_of
from carl_cli.report.record import read_record
from tests.batch.conftest import Study, digests, states
from tests.batch.test_scripts import SCRIPTS, environment

pytestmark = pytest.mark.cluster
FILES = ("*/*.h5", "*/*.nii.gz")
PATIENCE_S = 300.0


def slurm(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.5)


class Cluster:
    """The study's batch on the cluster, seen as its user sees it."""

    def __init__(self, study: Study, cores: int) -> None:
        self.study = study
        self.cores = cores
        self.out = study.folder / "out"

    def submit(self, table: Path, *options: object) -> Submission:
        told = self.study.batch(
            table, self.out, "--executor", "slurm", "--cpus", 1, "--mem", "2G", *options
        )
        assert told.code == 0, told.err
        return submissions(self.out)[-1]

    def done(self) -> set[str]:
        found = [states(path) for path in self.out.glob("shards/*/status.csv")]
        return {name for table in found for name, state in table.items() if state == "done"}

    def status(self) -> list[str]:
        told = self.study.carl("batch", "status", self.out)
        assert told.code == 0, told.err
        return told.out.splitlines()

    def wait(self, job: Submission, state: str) -> None:
        def there() -> bool:
            self.hasten()
            return set(task_states(job).values()) == {state}

        wait_until(there, f"all tasks {state}")

    def hasten(self) -> None:
        """Slurm keeps what was requeued waiting for two minutes."""
        waiting = slurm("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i|%r")
        for line in waiting.splitlines():
            task, _, reason = line.partition("|")
            if reason == "BeginTime":
                subprocess.run(["scontrol", "update", f"jobid={task}", "starttime=now"])


@pytest.fixture
def cluster(study: Study, slurm_cores: int) -> Iterator[Cluster]:
    found = Cluster(study, slurm_cores)
    yield found
    for entry in submissions(found.out):
        subprocess.run(["scancel", entry.job, *([entry.summary] if entry.summary else [])])


def preempt(cluster: Cluster, job: Submission) -> None:
    """By a job of a partition with precedence that wants the whole node for a moment."""
    urgent = ("sbatch", "--wait", "--partition=urgent", "--exclusive", "--output=/dev/null")
    slurm(*urgent, "--wrap", "sleep 1")


def requeue(cluster: Cluster, job: Submission) -> None:
    """By the administrator."""
    for task in job.task_ids():
        if task_states(job)[task] == "RUNNING":
            slurm("scontrol", "requeue", task)


def warn(cluster: Cluster, job: Submission) -> None:
    """By the signal that Slurm sends before the time is up; submitit then requeues the task."""
    slurm("scancel", "--signal=USR2", job.job)


def seen_again(out: Path, job: Submission) -> str:
    return "".join(log_of(out, task).read_text() for task in job.task_ids())


@pytest.mark.parametrize("interrupt", [preempt, requeue, warn], ids=lambda f: f.__name__)
def test_an_interrupted_array_goes_on_and_does_nothing_twice(
    cluster: Cluster, interrupt: Callable[[Cluster, Submission], None]
) -> None:
    """Two tasks, interrupted once one case is done: the same bytes as an undisturbed run."""
    table, calm = cluster.study.pairs(6), cluster.study.folder / "calm"
    assert cluster.study.batch(table, calm).code == 0
    job = cluster.submit(table, "--tasks", 2, "--requeue")
    wait_until(cluster.done, "a first case")
    interrupt(cluster, job)
    before = cluster.done()
    files = {
        path: path.stat().st_mtime_ns for name in before for path in cluster.out.glob(f"{name}/*")
    }
    cluster.wait(job, "COMPLETED")
    assert cluster.status()[:2] == ["done 6", "failed 0"]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    log = seen_again(cluster.out, job)
    assert before, "nothing was finished before the interruption"
    assert all(f"{name}: finished already" in log for name in before)
    assert digests(cluster.out, *FILES) == digests(calm, *FILES)
    wait_until((cluster.out / "summary.csv").exists, "the summary")
    assert set(states(cluster.out / "summary.csv").values()) == {"done"}


def carl_process(task: str) -> int | None:
    """The number of the process of `carl batch` within a running task."""
    pids = [line.split()[0] for line in slurm("scontrol", "listpids", task).splitlines()[1:]]
    for pid in pids:
        command = Path("/proc", pid, "cmdline")
        if pid.isdigit() and command.exists() and b"spawn_main" in command.read_bytes():
            return int(pid)
    return None


def test_a_task_that_was_killed_is_told_and_submitted_again(cluster: Cluster) -> None:
    """kill -9 of a task's process: its task failed, its cases not lost, nothing done twice."""
    table = cluster.study.pairs(6)
    job = cluster.submit(table, "--tasks", 2)
    victim = job.task_ids()[0]
    part = cluster.out / "shards/1-of-2/status.csv"
    wait_until(lambda: part.exists() and "running" in states(part).values(), "a running case")
    pid = carl_process(slurm("squeue", "--noheader", f"--jobs={victim}", "--format=%A").strip())
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    ended = {"COMPLETED", "FAILED"}
    wait_until(lambda: set(task_states(job).values()) == ended, "one task failed, one completed")
    told = cluster.status()
    assert any(line.startswith("interrupted ") for line in told)
    assert f"job {job.job}: 1 COMPLETED, 1 FAILED" in told
    assert f"task {victim}: FAILED, see {log_of(cluster.out, victim)}" in told
    before = cluster.done()
    again = cluster.submit(table, "--tasks", 2)
    cluster.wait(again, "COMPLETED")
    assert cluster.status()[:2] == ["done 6", "failed 0"]
    assert all(f"{name}: finished already" in seen_again(cluster.out, again) for name in before)


def test_cancelled_jobs_are_gone(cluster: Cluster) -> None:
    """What was finished stays, computed with as many threads as the task had cores."""
    words = ("-o", cluster.out, "--weights", cluster.study.weights, "--device", "cpu")
    options = ("--executor", "slurm", "--tasks", 1, "--cpus", cluster.cores)
    assert cluster.study.carl("batch", cluster.study.pairs(6), *words, *options).code == 0
    (job,) = submissions(cluster.out)
    wait_until(cluster.done, "a first case")
    told = cluster.study.carl("batch", "cancel", cluster.out)
    assert (told.code, told.out) == (0, f"cancelled {job.job}\n")
    cluster.wait(job, "CANCELLED")
    assert cluster.study.carl("batch", "cancel", cluster.out).out == "nothing to cancel\n"
    queue = slurm("squeue", "--noheader", "--format=%A").split()
    assert not {job.job, job.summary} & set(queue)
    (record,) = (cluster.out / min(cluster.done())).glob("*.json")
    assert read_record(record).environment.threads == cluster.cores


def test_weights_that_the_node_can_not_read(cluster: Cluster) -> None:
    """They go between submission and start; the task's log says so in one line."""
    copy = cluster.study.folder / "weights"
    copy.mkdir()
    for file in cluster.study.weights.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    table = cluster.study.pairs(2)
    job = cluster.submit(table, "--tasks", 2, "--weights", copy, "--sbatch", "hold")
    (copy / "config.json").unlink()
    slurm("scontrol", "release", job.job)
    cluster.wait(job, "FAILED")
    log = log_of(cluster.out, job.task_ids()[0]).read_text()
    assert log.startswith("error: ")
    assert f"{copy}/config.json: No such file or directory" in log.splitlines()[0]
    assert (cluster.out / FOLDER / f"{job.job}_submission.sh").exists()


def test_the_ready_script_for_an_array(cluster: Cluster) -> None:
    """Two tasks find their parts in Slurm's variables; the summary merges them."""
    study = cluster.study
    table, log = study.pairs(3), study.folder / "carl-%A_%a.log"
    limits = ("--array=0-1", "--cpus-per-task=1", "--mem=2G", f"--output={log}", "--wait")
    more = ("--weights", study.weights, "--device", "cpu", "--threads", 1)
    words = ("sbatch", *limits, SCRIPTS / "array.slurm", table, cluster.out, *more)
    done = subprocess.run(
        [str(word) for word in words],
        env=environment(study.folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert study.batch(table, cluster.out, "--summary").out == "done 3\nfailed 0\n"
    parts = sorted(path.parent.name for path in cluster.out.glob("shards/*/status.csv"))
    assert parts == ["1-of-2", "2-of-2"]

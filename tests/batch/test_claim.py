"""One run for each part: the second is refused, and what a dead one left is no hindrance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from carl_cli.batch.claim import LAPSE_S, Claim, Owner
from carl_cli.batch.shards import Shard
from carl_cli.errors import OutputError
from tests.batch.conftest import Study

HOLDER = """
import sys, time
from pathlib import Path
from carl_cli.batch.claim import Claim
from carl_cli.batch.shards import Shard
with Claim(Path(sys.argv[1]), Shard()):
    print("held", flush=True)
    time.sleep(60)
"""


def held(out: Path) -> list[Path]:
    return list(out.glob("shards/*/run-*.json"))


def left_behind(out: Path, age_s: float, shard: str = "1-of-1", **values: object) -> Path:
    """What a run of another machine left; its last sign of life is so old."""
    folder = out / "shards" / shard
    folder.mkdir(parents=True, exist_ok=True)
    owner = Owner.this().model_copy(update={"host": "node7", "kernel": "k", "pid": 41, **values})
    path = folder / "run-0000.json"
    path.write_text(owner.model_dump_json())
    past = time.time() - age_s
    os.utime(path, (past, past))
    return path


def test_the_second_run_is_refused_and_told_who_is_at_work(tmp_path: Path) -> None:
    with Claim(tmp_path, Shard()):
        with pytest.raises(OutputError, match=f"another run is at work.*process {os.getpid()} on"):
            Claim(tmp_path, Shard()).__enter__()
        assert len(held(tmp_path)) == 1
    assert held(tmp_path) == []
    with Claim(tmp_path, Shard()):
        pass


def test_the_command_is_refused_with_one_line(study: Study) -> None:
    out = study.folder / "out"
    with Claim(out, Shard()):
        outcome = study.batch(study.pairs(1), out)
        assert outcome.code == 7
        (line,) = (line for line in outcome.err.splitlines() if line.startswith("error: "))
        assert line.startswith(f"error: {out}: another run is at work there: process {os.getpid()}")
        assert not (out / "ab").exists()
    assert study.batch(study.pairs(1), out).code == 0


def test_shards_of_one_division_go_together_and_others_do_not(tmp_path: Path) -> None:
    with Claim(tmp_path, Shard(1, 2)):
        with Claim(tmp_path, Shard(2, 2)):
            pass
        for other in (Shard(1, 2), Shard(1, 1), Shard(2, 12)):
            with pytest.raises(OutputError, match="another run"):
                Claim(tmp_path, other).__enter__()


def test_a_killed_run_is_taken_over_at_once(tmp_path: Path) -> None:
    """And a living one in another process is seen."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=f"process {holder.pid} on"):
        Claim(tmp_path, Shard()).__enter__()
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie still has its number
    with Claim(tmp_path, Shard()) as claim:
        assert held(tmp_path) == [claim.path]
    holder.wait()


def test_a_number_that_another_process_has_now_is_no_sign_of_life(tmp_path: Path) -> None:
    here = Owner.this()
    path = left_behind(tmp_path, 0, host=here.host, kernel=here.kernel, pid=here.pid, started="1")
    with Claim(tmp_path, Shard()):
        assert not path.exists()


@pytest.mark.parametrize("values", [{}, {"world": "pid:[1]", "host": "", "kernel": ""}])
def test_another_machine_is_believed_dead_when_it_is_silent(
    tmp_path: Path, values: dict[str, object]
) -> None:
    """Also another container of this machine, whose processes have other numbers here."""
    if "world" in values:
        here = Owner.this()
        values = {**values, "host": here.host, "kernel": here.kernel}
    path = left_behind(tmp_path, LAPSE_S - 20, **values)
    with pytest.raises(OutputError, match="another run"):
        Claim(tmp_path, Shard()).__enter__()
    os.utime(path, (time.time() - LAPSE_S - 1,) * 2)
    with Claim(tmp_path, Shard()):
        assert not path.exists()


def test_a_requeued_slurm_job_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm starts a job again after its end: only a later start may take over."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    left_behind(tmp_path, 5, slurm_job="77", slurm_restarts=1)
    with pytest.raises(OutputError, match="node7"):
        Claim(tmp_path, Shard()).__enter__()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with Claim(tmp_path, Shard()) as claim:
        assert held(tmp_path) == [claim.path]


def test_a_run_that_was_asleep_notices_that_it_was_taken_over(tmp_path: Path) -> None:
    with Claim(tmp_path, Shard()) as claim:
        claim.check()
        claim.path.unlink()
        with pytest.raises(OutputError, match="taken this part over"):
            claim.check()


def test_a_run_gives_signs_of_life(tmp_path: Path) -> None:
    with Claim(tmp_path, Shard(), beat_s=0.02) as claim:
        os.utime(claim.path, (0, 0))
        time.sleep(0.5)
        assert abs(claim.path.stat().st_mtime - time.time()) < 5


def test_of_many_that_begin_together_at_most_one_works(tmp_path: Path) -> None:
    """Threads have one process number, so here every claim looks alive to the others."""
    at_work, most, refused = [0], [0], [0]
    guard = threading.Lock()

    def run() -> None:
        try:
            with Claim(tmp_path, Shard()):
                with guard:
                    at_work[0] += 1
                    most[0] = max(most[0], at_work[0])
                time.sleep(0.05)
                with guard:
                    at_work[0] -= 1
        except OutputError:
            with guard:
                refused[0] += 1

    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 1
    assert refused[0] < 12
    assert held(tmp_path) == []

"""One run for each part: the second is refused, and what a dead one left is no hindrance."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from carl_cli.batch.claim import LOCK, OWNER, Claim
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
    return list(out.glob(f"shards/*/{OWNER}"))


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
        claim.check()
    holder.wait()


def test_what_is_left_of_dead_runs_is_no_hindrance(tmp_path: Path) -> None:
    """Lock files stay; the name of a run of a machine that is gone stays too."""
    folder = tmp_path / "shards" / "1-of-3"
    folder.mkdir(parents=True)
    (folder / LOCK).touch()
    (folder / OWNER).write_text("process 41 on node7 since 2026-01-01\n00\n")
    for shard in (Shard(), Shard(1, 3)):
        with Claim(tmp_path, shard):
            pass


def test_a_run_whose_lock_got_lost_stops_when_another_begins(tmp_path: Path) -> None:
    """As after a long silence of its machine on NFS. It leaves the other's files alone."""
    with Claim(tmp_path, Shard()) as first:
        first.check()
        (tmp_path / "shards" / "1-of-1" / LOCK).unlink()
        with Claim(tmp_path, Shard()) as second:
            with pytest.raises(OutputError, match="taken this part over"):
                first.check()
            first.__exit__()
            second.check()
            with pytest.raises(OutputError, match="another run is at work"):
                Claim(tmp_path, Shard()).__enter__()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match=r"no lock can be had.*No locks available"):
        Claim(tmp_path, Shard()).__enter__()


def test_of_many_that_begin_together_at_most_one_works(tmp_path: Path) -> None:
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

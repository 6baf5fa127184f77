"""What a terminal shows while a batch runs, drawn by rich into text; and that a log gets lines."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from carl_cli.batch.status import StatusRow
from carl_cli.cli.batch_table import LiveTable
from tests.batch.conftest import Study


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(table: LiveTable, width: int = 90) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(table.drawn())
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_counts_times_and_the_rest(tmp_path: Path) -> None:
    """Two lanes, two cases of 30 s done, five to go: 75 s."""
    clock = Clock()
    table = LiveTable(2, clock)
    for number in range(8):
        table.note(StatusRow(id=f"c{number}", line=number))
    clock.now = 120
    figures = {"lncc_before": 0.25, "lncc": 0.75, "folded_percent": 0.5}
    for name in ("c0", "c1"):
        clock.now += 1
        table.note(StatusRow(id=name, line=0, state="done", seconds=30, **figures))
    table.note(StatusRow(id="c2", line=2, state="failed", seconds=1, error="c2.nii: " + "no " * 60))
    clock.now = 130
    table.note(StatusRow(id="c3", line=3, state="running"))
    clock.now = 160
    lines = drawn(table)
    assert lines[0] == "2 of 8 done, 1 failed; 0:01:00 so far; about 0:01:15 to go"
    assert lines[1].split() == ["case", "state", "time", "LNCC", "folds", "%"]
    assert lines[2].split() == ["c3", "running", "0:00:30"]
    assert lines[3].startswith("c2")
    assert lines[3].endswith("…")
    assert lines[4].split() == ["c1", "done", "0:00:30", "0.250", "→", "0.750", "0.500"]
    assert len(lines) == 6


def test_a_long_batch_keeps_to_a_screen() -> None:
    table = LiveTable(1, Clock())
    for number in range(400):
        state = "failed" if number % 3 == 0 else "done"
        table.note(StatusRow(id=f"c{number}", line=number, state=state, error="x" * 300))
    assert len(drawn(table)) <= 18


def test_fifty_thousand_rows_are_noted_in_no_time() -> None:
    table = LiveTable(1, Clock())
    start = time.process_time()
    rows = [StatusRow(id=f"c{number}", line=number) for number in range(50_000)]
    for row in rows:
        table.note(row)
    assert time.process_time() - start < 5


def on_a_terminal(command: list[str]) -> str:
    """What a process writes to a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    told = b""
    while True:
        with suppress(OSError):  # EIO: the other side is closed
            told += os.read(ours, 4096)
            continue
        break
    os.close(ours)
    process.wait()
    return told.decode()


def test_a_terminal_gets_the_table_and_a_log_the_lines(study: Study) -> None:
    (study.folder / "broken.nii.gz").write_text("not an image")
    table = study.table("id,fixed,moving", "ab,a.nii.gz,b.nii.gz", "ax,a.nii.gz,broken.nii.gz")
    log = study.folder / "log.txt"
    words = ("batch", table, "-o", study.folder / "out", "--weights", study.weights)
    more = ("--device", "cpu", "--threads", 1, "--log-file", log)
    command = [sys.executable, "-m", "carl_cli.cli.app", *map(str, (*words, *more))]
    told = on_a_terminal(command)
    assert "1 of 2 done, 1 failed; " in told
    assert "error: ax: " in told
    assert "started" not in told
    lines = log.read_text().splitlines()
    assert sum(line.endswith("ab: started") for line in lines) == 1
    assert any("ab: done in" in line for line in lines)
    assert "\x1b" not in log.read_text()

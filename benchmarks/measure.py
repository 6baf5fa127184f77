"""The cost of a process with all that it starts, and a table of figures."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE_MIB = resource.getpagesize() / 2**20
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """Of one process and all that it starts. cpu_seconds hardly feel what else a machine does;
    peak_mib is the largest sum over the processes that live at one time."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def process_cost(command: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end, silently. SystemExit with its last words if it fails."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [str(word) for word in command],
        env=os.environ | dict(environ or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    words: list[bytes] = []
    assert child.stderr is not None
    reader = threading.Thread(
        target=lambda stream: words.append(stream.read()), args=[child.stderr]
    )
    reader.start()
    peak = 0.0
    # waitid leaves the child for wait4, which alone tells what it used.
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak = max(peak, tree_mib(child.pid), _high_water_mib(child.pid))
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - start
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    if child.returncode != 0:
        last = b"".join(words).decode(errors="replace").strip()[-2000:]
        raise SystemExit(f"failed: {' '.join(map(str, command))}\n{last}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(seconds, cpu, peak)


def _high_water_mib(pid: int) -> float:
    """What one process held at most since it began its program; rusage counts its parent too."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2]
    except OSError:
        return 0.0
    return int(status.split()[0]) / 1024 if status else 0.0


def tree_mib(pid: int) -> float:
    """Resident memory of a process and all below it, now; what has ended counts nothing."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MIB
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (OSError, ValueError):
        return 0.0
    return resident + sum(tree_mib(child) for child in children)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table: numbers to the right."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    lines = [_line(columns, widths), "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|"]
    return "\n".join([title, "", *lines, *(_line(row, widths) for row in texts), ""])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)) + " |"


def _text(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)

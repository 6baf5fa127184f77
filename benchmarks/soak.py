"""Many small cases through `carl batch` on two workers: nothing may grow.

    python benchmarks/soak.py [--cases 500] [--minutes 20]

Polls the batch while it works: resident memory of it and its workers, their open files, and
temporary files of theirs. Exits with 1 unless memory in the last fifth of the cases lies within 5 %
of that in the second fifth (the first one loads and warms up), and open files and temporary files
are as many; and unless every case of the table is done and has its outputs. A batch that has not
ended after --minutes is interrupted, and judged by what is done.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.batch import CARL, write_pairs
from benchmarks.measure import table, tree_mib
from tests.cli.weights_folder import untrained_weights

SIZE, PAIRS = 16, 10
POLL_SECONDS = 0.5
GROWTH = 0.05


class Moment(NamedTuple):
    done: int
    processes: int
    memory_mib: int
    open_files: int
    temporary_files: int


def write_study(folder: Path, cases: int) -> Path:
    """The same few pairs again and again: what is kept of a case is kept of each."""
    pairs = write_pairs(folder, PAIRS, SIZE)
    lines = [f"{k},{','.join(map(str, pairs[k % PAIRS]))}" for k in range(cases)]
    path = folder / "pairs.csv"
    path.write_text("\n".join(["id,fixed,moving", *lines]) + "\n")
    return path


def processes(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from processes(int(child))


def moment(pid: int, out: Path, temporary: Path) -> Moment | None:
    """None before the first case is done."""
    try:
        open_files = [len(os.listdir(f"/proc/{each}/fd")) for each in processes(pid)]
    except OSError:  # one of them has ended meanwhile
        return None
    left = len(list(temporary.rglob("*")))
    done = states(out).count("done")
    return (
        Moment(done, len(open_files), round(tree_mib(pid)), sum(open_files), left) if done else None
    )


def states(out: Path) -> list[str]:
    """The last line of each case counts."""
    last = {}
    for path in out.glob("shards/*/status.csv"):
        with path.open(newline="") as stream:
            last |= {row["id"]: row["state"] for row in csv.DictReader(stream)}
    return list(last.values())


def watched(command: list[str], out: Path, temporary: Path, seconds: float) -> list[Moment]:
    """What was seen until the batch ended or its time was up."""
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    seen, end = [], time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < end:
        if found := moment(child.pid, out, temporary):
            seen.append(found)
        time.sleep(POLL_SECONDS)
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    child.wait()
    return seen


def fifths(seen: list[Moment]) -> list[Moment]:
    """Medians over fifths of the cases done, while all processes were there."""
    most = max(each.processes for each in seen)
    seen = [each for each in seen if each.processes == most]
    last = max(each.done for each in seen)
    parts = [[m for m in seen if k * last < 5 * m.done <= (k + 1) * last] for k in range(5)]
    medians = (map(statistics.median_low, zip(*part, strict=True)) for part in parts if part)
    return [Moment(*numbers) for numbers in medians]


def faults(parts: list[Moment], out: Path, temporary: Path, done: int) -> list[str]:
    early, late = parts[1], parts[-1]
    found = [
        f"memory: {early.memory_mib} MiB became {late.memory_mib}"
        for _ in range(abs(late.memory_mib / early.memory_mib - 1) > GROWTH)
    ]
    found += [f"open files: {early.open_files} became {late.open_files}"] * (
        late.open_files > early.open_files
    )
    found += [f"left in the temporary folder: {left.name}" for left in temporary.iterdir()]
    whole = len(list(out.glob("*/*_xfm.h5")))
    found += [f"{whole} transforms of {done} cases"] * (whole != done)
    return found + ["half-written files"] * any(out.rglob(".*.partial*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=20.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, temporary, out = Path(name), Path(name, "tmp"), Path(name, "out")
        temporary.mkdir()
        pairs, weights = write_study(folder, given.cases), untrained_weights(folder / "weights")
        options = ["-o", out, "--weights", weights, "--workers", 2, "--threads", 2]
        command = [*CARL, "batch", str(pairs), *map(str, options), "--device", "cpu"]
        parts = fifths(watched(command, out, temporary, 60 * given.minutes))
        done = states(out).count("done")
        print(table(f"{done} of {given.cases} cases", Moment._fields, parts))
        sys.exit("\n".join(faults(parts, out, temporary, done)) or 0)


if __name__ == "__main__":
    main()

"""Many small cases through `carl batch`: nothing may grow.

    python benchmarks/soak.py [--cases 500] [--minutes 20] [--workers 2] [--threads 2]

A day of cases of half a minute is about 3,000. What a case leaves behind does not depend on its
size, so that as many of 16 voxels a side stand for it: `--cases 3000 --workers 1 --threads 1`.

Polls the batch while it works: resident memory of it and its workers, their open files, temporary
files of theirs, seconds of the processor, and bytes of the status table and the log. Exits with 1
unless memory in the last fifth of the cases lies within 5 % of that in the second fifth (the first
one loads and warms up), open files and temporary files are as many, and a case takes no more than a
quarter more of the processor; and unless every case of the table is done and has its outputs. A
batch that has not ended after --minutes is interrupted, and judged by what is done.
"""

from __future__ import annotations

import argparse
import csv
import os
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
GROWTH, SLOWER = 0.05, 1.25
TICKS = os.sysconf("SC_CLK_TCK")


LOG = "soak.log"


class Moment(NamedTuple):
    done: int
    processes: int
    memory_mib: int
    open_files: int
    temporary_files: int
    processor_s: float
    clock_s: float
    status_bytes: int
    log_bytes: int


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
    if not (done := states(out).count("done")):
        return None
    try:
        open_files = [len(os.listdir(f"/proc/{each}/fd")) for each in processes(pid)]
        spent = processor_seconds(pid), time.monotonic()
    except OSError:  # one of them has ended meanwhile
        return None
    left = len(list(temporary.rglob("*")))
    status = sum(path.stat().st_size for path in out.glob("shards/*/status.csv"))
    sizes = status, out.with_name(LOG).stat().st_size
    memory = round(tree_mib(pid))
    return Moment(done, len(open_files), memory, sum(open_files), left, *spent, *sizes)


def processor_seconds(pid: int) -> float:
    """Of the processes that live, and of those that they waited for."""
    seconds = 0.0
    for each in processes(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:15])) / TICKS
    return seconds


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
        child.terminate()  # SIGINT is ignored by what a shell runs in the background
    child.wait()
    return seen


def whole(seen: list[Moment]) -> list[Moment]:
    """While all processes were there."""
    most = max(each.processes for each in seen)
    return [each for each in seen if each.processes == most]


def in_fifths(seen: list[Moment]) -> list[list[Moment]]:
    """By cases done; a fifth without any moment is left out."""
    last = max(each.done for each in seen)
    parts = [[m for m in seen if k * last < 5 * m.done <= (k + 1) * last] for k in range(5)]
    return [part for part in parts if part]


def fifths(seen: list[Moment]) -> list[Moment]:
    """Medians over fifths of the cases done."""
    parts = in_fifths(whole(seen))
    return [Moment(*map(statistics.median_low, zip(*part, strict=True))) for part in parts]


def a_case(seen: list[Moment], field: str) -> list[float]:
    """How much a figure grew with each case, in each fifth."""
    ends = [(part[0], part[-1]) for part in in_fifths(whole(seen))]
    return [
        (getattr(last, field) - getattr(first, field)) / max(1, last.done - first.done)
        for first, last in ends
    ]


def per_thousand(seen: list[Moment], field: str) -> float:
    """How much a figure grows with 1,000 cases, by a straight line; without the first fifth."""
    later = [moment for part in in_fifths(whole(seen))[1:] for moment in part]
    done = [moment.done for moment in later]
    return 1000 * statistics.linear_regression(done, [getattr(m, field) for m in later]).slope


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


def slower(seen: list[Moment]) -> list[str]:
    _, early, *_, late = a_case(seen, "processor_s")
    return [f"a case took {early:.3f} s of the processor, then {late:.3f}"] * (
        late > SLOWER * early
    )


def figures(seen: list[Moment]) -> str:
    """What a day would make of it."""
    growing = ("memory_mib", "open_files", "temporary_files", "status_bytes", "log_bytes")
    lines = [f"{name}: {per_thousand(seen, name):+.4g} with 1,000 cases" for name in growing]
    for name in ("processor_s", "clock_s"):
        told = " ".join(f"{value:.3f}" for value in a_case(seen, name))
        lines.append(f"{name} of a case, by fifths: {told}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, temporary, out = Path(name), Path(name, "tmp"), Path(name, "out")
        temporary.mkdir()
        pairs, weights = write_study(folder, given.cases), untrained_weights(folder / "weights")
        options = ["-o", out, "--weights", weights, "--log-file", out.with_name(LOG)]
        options += ["--workers", given.workers, "--threads", given.threads]
        command = [*CARL, "batch", str(pairs), *map(str, options), "--device", "cpu"]
        seen = watched(command, out, temporary, 60 * given.minutes)
        if not seen:
            sys.exit("no case was done")
        parts, done = fifths(seen), states(out).count("done")
        print(table(f"{done} of {given.cases} cases", Moment._fields, parts))
        print(figures(seen))
        sys.exit("\n".join(faults(parts, out, temporary, done) + slower(seen)) or 0)


if __name__ == "__main__":
    main()

"""`python -m tests.faults.table [--each N]`: damaged files by kind and outcome, as markdown."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.judge import BAD, GOOD, KINDS, Bench, Verdict
from tests.faults.runner import Server
from tests.faults.samples import WEIGHTS


def judged(kind: str, seeds: range, server: Server, folder: Path) -> list[tuple[int, Verdict]]:
    bench = Bench(kind, folder / kind.replace(" ", "_"))
    return [(seed, bench.judge(seed, server.run)) for seed in seeds]


def rows(counts: dict[str, Counter[str]]) -> list[str]:
    columns = (*GOOD, *BAD)
    total: Counter[str] = sum(counts.values(), Counter())
    body = [*counts.items(), ("all", total)]
    head = ["| kind | files | " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) + 1)]
    return head + [
        f"| {kind} | {count.total()} | " + " | ".join(str(count[c]) for c in columns) + " |"
        for kind, count in body
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=80, help="damaged files of each kind")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--kind", action="append", help="only these")
    wanted = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    seeds = range(wanted.first, wanted.first + wanted.each)
    with tempfile.TemporaryDirectory() as folder, Server() as light, Server(heavy=True) as heavy:
        for kind in wanted.kind or KINDS:
            server = heavy if kind in WEIGHTS else light
            verdicts = judged(kind, seeds, server, Path(folder))
            counts[kind] = Counter(verdict.outcome for _, verdict in verdicts)
            for seed, verdict in verdicts:
                if not verdict.good:
                    print(
                        f"{kind} {seed} {verdict.change}: {verdict.outcome}: {verdict.why}",
                        flush=True,
                    )
            print(kind, dict(counts[kind]), flush=True)
    print("\n".join(rows(counts)))


if __name__ == "__main__":
    main()

"""`python -m tests.faults.fuzz --minutes 30`: damaged files without end, each judged.

What ends badly is kept under tests/faults/regressions (or --keep) by kind, outcome and hash;
test_mutated_files.py replays what lies there.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.faults.judge import KINDS, Bench, Verdict
from tests.faults.mutation import damaged
from tests.faults.runner import Server

REGRESSIONS = Path(__file__).with_name("regressions")
DEEPEST = 3


def kept_name(kind: str, verdict: Verdict, content: bytes, suffix: str) -> str:
    word = verdict.outcome.replace(" ", "-")
    mark = hashlib.sha256(content).hexdigest()[:8]
    return f"{kind.replace(' ', '_')}__{word}__{mark}{suffix}"


def keep_file(keep: Path, bench: Bench, verdict: Verdict, content: bytes) -> None:
    name = kept_name(bench.kind, verdict, content, bench.sample.target.suffix)
    keep.mkdir(parents=True, exist_ok=True)
    (keep / name).write_bytes(content)
    print(f"{name} {verdict.change}: {verdict.why}", flush=True)


def mutated(bench: Bench, random: Random) -> tuple[bytes, str]:
    """One change, or a few on top of each other."""
    content, changes = bench.sound, []
    for _ in range(random.randint(1, DEEPEST)):
        content, change = damaged(content, random.getrandbits(64), bench.sample.text)
        changes.append(change)
    return content, "+".join(changes)


def fuzz(minutes: float, seed: int, keep: Path, kinds: list[str]) -> Counter[str]:
    random, counts = Random(f"fuzz {seed}"), Counter[str]()
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder, Server(heavy=True) as server:
        benches = [Bench(kind, Path(folder) / kind.replace(" ", "_")) for kind in kinds]
        while time.monotonic() < end:
            bench = random.choice(benches)
            content, change = mutated(bench, random)
            verdict = bench.judge_bytes(content, change, server.run)
            counts[verdict.outcome] += 1
            if not verdict.good:
                keep_file(keep, bench, verdict, content)
            if counts.total() % 50 == 0:
                print(dict(counts), flush=True)
    return counts


def asked(about: str, minutes: float) -> argparse.Namespace:
    """What a command line of a fuzzer asks for; kind: a list."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=REGRESSIONS)
    parser.add_argument("--kind", action="append", help="only these")
    wanted = parser.parse_args()
    wanted.kind = wanted.kind or list(KINDS)
    return wanted


def main() -> None:
    wanted = asked(__doc__ or "", minutes=30)
    counts = fuzz(wanted.minutes, wanted.seed, wanted.keep, wanted.kind)
    print(f"{counts.total()} files in {wanted.minutes:g} minutes: {dict(counts)}")


if __name__ == "__main__":
    main()

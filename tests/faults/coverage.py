"""`python -m tests.faults.coverage --minutes 60 --seed 1`: damaged files that lead carl's readers
where no file led them before are damaged further.

A file is worth keeping when reading it takes a step from line to line of `carl_cli/io` that none
of its kind took. What ends badly is kept as by `tests.faults.fuzz`.
"""

from __future__ import annotations

import ast
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.faults.fuzz import asked, keep_file
from tests.faults.judge import Bench, Verdict
from tests.faults.mutation import damaged, somewhere
from tests.faults.runner import REPOSITORY, Ended, Server

ROOM = REPOSITORY / "carl_cli" / "io"
DEEPEST, NEWEST = 4, 8
LARGEST = 200_000


def constants(room: Path = ROOM) -> list[bytes]:
    """Texts and numbers that the readers know: what a file may say to be let further."""
    found: set[bytes] = set()
    for path in sorted(room.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and 0 < len(value) < 40 and " " not in value.strip():
                found.add(value.encode())
            elif isinstance(value, bytes) and 0 < len(value) < 40:
                found.add(value)
            elif isinstance(value, int) and 0 < value < 2**31:
                found |= {str(value).encode(), *(value.to_bytes(4, o) for o in ("little", "big"))}
    return sorted(found)


class Corpus:
    """The files of one kind that led somewhere new, and how to make another of them."""

    def __init__(self, bench: Bench, words: list[bytes]) -> None:
        self.bench, self.words = bench, words
        self.files = [bench.sound]
        self.steps: set[str] = set()
        self.tried, self.seconds = 0, 0.0

    def another(self, random: Random) -> tuple[bytes, str]:
        """A few changes to a file, one of the newest in half of the cases."""
        newest = self.files[-NEWEST:] if random.random() < 0.5 else self.files
        content, changes = random.choice(newest), []
        for _ in range(random.randint(1, DEEPEST)):
            content, change = self._changed(content, random)
            changes.append(change)
        return content[:LARGEST], "+".join(changes)

    def _changed(self, content: bytes, random: Random) -> tuple[bytes, str]:
        chance = random.random()
        if chance < 0.15:
            at, word = somewhere(len(content), random), random.choice(self.words)
            over = random.choice((0, len(word)))
            return content[:at] + word + content[at + over :], "worded"
        if chance < 0.25:
            other = random.choice(self.files)
            return content[: somewhere(len(content), random)] + other[
                somewhere(len(other), random) :
            ], "spliced"
        return damaged(content, random.getrandbits(64), self.bench.sample.text)

    def judged(self, server: Server, random: Random) -> tuple[bytes, Verdict]:
        """A file, and what became of it."""
        content, change = self.another(random)
        started = time.monotonic()
        taken: list[str] = []

        def run(args: list[object], folder: Path) -> Ended:
            ended = server.run(args, folder, traced=ROOM)
            taken.extend(ended.steps)
            return ended

        verdict = self.bench.judge_bytes(content, change, run)
        new = set(taken) - self.steps
        if new:
            self.steps |= new
            self.files.append(content)
        self.tried, self.seconds = self.tried + 1, self.seconds + time.monotonic() - started
        return content, verdict


def explore(minutes: float, seed: int, keep: Path, kinds: list[str]) -> list[Corpus]:
    random, told, words = Random(f"coverage {seed}"), Counter[str](), constants()
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, Server(heavy=True) as server:
        corpora = [
            Corpus(Bench(kind, Path(folder) / kind.replace(" ", "_")), words) for kind in kinds
        ]
        for corpus in corpora:
            first(corpus, server)
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            corpus = min(corpora, key=lambda each: each.seconds)
            content, verdict = corpus.judged(server, random)
            told[verdict.outcome] += 1
            if not verdict.good and (sign := signature(corpus.bench, verdict)) not in seen:
                seen.add(sign)
                keep_file(keep, corpus.bench, verdict, content)
            if told.total() % 200 == 0:
                print(dict(told), sum(len(c.steps) for c in corpora), flush=True)
    print(dict(told))
    return corpora


def first(corpus: Corpus, server: Server) -> None:
    """The steps that the sound file takes are no news."""
    steps: list[str] = []

    def run(args: list[object], folder: Path) -> Ended:
        ended = server.run(args, folder, traced=ROOM)
        steps.extend(ended.steps)
        return ended

    verdict = corpus.bench.judge_bytes(corpus.bench.sound, "none", run)
    assert verdict.outcome == "right", (corpus.bench.kind, verdict)
    corpus.steps |= set(steps)


def signature(bench: Bench, verdict: Verdict) -> str:
    """One failure ends in the same words again and again, but for its numbers and paths."""
    return f"{bench.kind} {verdict.outcome} " + re.sub(r"\S*[\d/]\S*", "", verdict.why[-120:])


def main() -> None:
    wanted = asked(__doc__ or "", minutes=60)
    corpora = explore(wanted.minutes, wanted.seed, wanted.keep, wanted.kind)
    for corpus in corpora:
        print(f"{corpus.bench.kind}: {corpus.tried} files, {len(corpus.files) - 1} led on, "
              f"{len(corpus.steps)} steps")  # fmt: skip
    every = set().union(*(corpus.steps for corpus in corpora))
    print(f"{sum(c.tried for c in corpora)} files, {len(every)} steps in {ROOM.name}")


if __name__ == "__main__":
    main()

"""Which part of a batch this process does: `--shard I/N`, else its place in a Slurm array."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from carl_cli.errors import UsageError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1. Every item belongs to exactly one part."""

    index: int = 1
    count: int = 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every count-th item: neighbours, often of similar size, go to different parts."""
        return list(items[self.index - 1 :: self.count])

    @property
    def name(self) -> str:
        return f"{self.index}-of-{self.count}"


def chosen_shard(text: str | None, environ: Mapping[str, str] = os.environ) -> Shard:
    """What was asked for, else the Slurm array's part, else everything. Raises UsageError."""
    if text is not None:
        return _parsed(text)
    if "SLURM_ARRAY_TASK_ID" in environ:
        return _of_slurm(environ)
    return Shard()


def _parsed(text: str) -> Shard:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}", "give I/N with I from 1 to N, e.g. 3/8")
    return Shard(int(match[1]), int(match[2]))


def _of_slurm(environ: Mapping[str, str]) -> Shard:
    """Slurm counts the tasks but not their places: these follow from the range's start and step."""
    names = ("ID", "MIN", "STEP", "COUNT")
    texts = [environ.get(f"SLURM_ARRAY_TASK_{name}", "1") for name in names]
    if not all(re.fullmatch(r"[0-9]{1,9}", text) for text in texts):
        raise UsageError("the SLURM_ARRAY_TASK_… variables are not numbers", "give --shard I/N")
    task, first, step, count = map(int, texts)
    place, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= place < count:
        raise UsageError(
            f"task {task} has no place in a Slurm array of {count} from {first} in steps of {step}",
            "submit a range such as --array=0-7, or give --shard I/N",
        )
    return Shard(place + 1, count)

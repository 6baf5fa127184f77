"""Rows → markdown, and the marked block of a model card."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest.pairs import SETS, TUNING

BEGIN, END = "<!-- validation table: begin -->", "<!-- validation table: end -->"
AIMS = (("carl", "Affine"), ("carl --io", "SyNQuick"), ("carl --io", "SyN"))


@dataclass(frozen=True)
class Row:
    """One contender on one pair. seconds: None where nothing was computed; score: nan where
    the contender failed; warned: see contenders.Result."""

    set: str
    pair: str
    method: str
    score: float
    folded_percent: float
    sdlogj: float
    cpu_seconds: float | None
    wall_seconds: float | None
    cached: bool = False
    warned: bool | None = None

    @property
    def done(self) -> bool:
        return not math.isnan(self.score)


@dataclass(frozen=True)
class Change:
    """Of carl's score when a pair was moved."""

    set: str
    pair: str
    kind: str
    draw: int
    score: float
    change: float


def markdown(about: dict[str, Any], rows: list[Row], changes: list[Change]) -> str:
    parts = [_introduction(about)]
    parts += [_set_table(name, [r for r in rows if r.set == name]) for name in _order(rows)]
    parts += [_aims(rows), _changes(changes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def replace_block(card: Path, text: str) -> None:
    """What stands between BEGIN and END becomes `text`."""
    head, found, rest = card.read_text().partition(BEGIN)
    _, closed, tail = rest.partition(END)
    if not (found and closed):
        raise SystemExit(f"{card}: no block between {BEGIN} and {END}")
    card.write_text(f"{head}{BEGIN}\n{text}{END}{tail}")


def _introduction(about: dict[str, Any]) -> str:
    return (
        f"By `{about['command']}`: weights {about['weights']} ({about['digest']}), "
        f"carl {about['carl']}, antspyx {about['antspyx']}. All read the same files, and one code "
        "outside carl (SimpleITK) applies and measures each transform: folds (determinant 0 or "
        "less, central differences) and SDlogJ over all voxels of the fixed image. Seconds are "
        "CPU seconds of a process with one thread, start and reading included, on a shared "
        "machine; warned: of how many of its results the program itself said that they are "
        "doubtful; † marks results kept from an earlier run of the same program on the same files."
    )


def _set_table(name: str, rows: list[Row]) -> str:
    chosen = SETS[name]
    pairs = len({r.pair for r in rows})
    worst = "largest" if chosen.error else "lowest"
    lines = [f"**{chosen.title}** ({pairs} pairs)", ""]
    lines += [
        f"| | {chosen.figure} | tuning / other pairs | {worst} | folds, % | SDlogJ | seconds "
        "| warned |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    methods = list(dict.fromkeys(r.method for r in rows))
    lines += [_line(chosen.error, m, [r for r in rows if r.method == m], pairs) for m in methods]
    return "\n".join(lines)


def _line(error: bool, method: str, rows: list[Row], pairs: int) -> str:
    rows = [r for r in rows if r.done]
    name = method if len(rows) == pairs else f"{method} ({len(rows)} of {pairs})"
    if not rows:
        return f"| {name} | | | | | | | |"
    scores = [r.score for r in rows]
    digits = 2 if error else 3
    cells = [name, f"{np.mean(scores):.{digits}f}", _halves(rows, digits)]
    cells += [f"{max(scores) if error else min(scores):.{digits}f}"]
    if rows[0].cpu_seconds is None:
        return "| " + " | ".join([*cells, "", "", "", ""]) + " |"
    cells += [f"{np.mean([r.folded_percent for r in rows]):.3f}"]
    cells += [f"{np.mean([r.sdlogj for r in rows]):.3f}"]
    mark = " †" if any(r.cached for r in rows) else ""
    cells += [f"{np.mean([r.cpu_seconds for r in rows]):.0f}{mark}"]
    told = [r.warned for r in rows if r.warned is not None]
    cells += [f"{sum(told)} of {len(told)}" if told else ""]
    return "| " + " | ".join(cells) + " |"


def _halves(rows: list[Row], digits: int) -> str:
    """Means of the pairs that settings were chosen on, and of the others; a dash for none."""
    halves = [[r.score for r in rows if (r.pair in TUNING) == tuning] for tuning in (True, False)]
    return " / ".join(f"{np.mean(half):.{digits}f}" if half else "–" for half in halves)


def _aims(rows: list[Row]) -> str:
    lines = [_aim(ours, theirs, rows) for ours, theirs in AIMS]
    return "\n".join(line for line in lines if line)


def _aim(ours: str, theirs: str, rows: list[Row]) -> str:
    """One line: where `ours` is at least as good as `theirs`, over pairs that both have."""
    told = []
    for name in _order(rows):
        scores = [
            {r.pair: r.score for r in rows if (r.set, r.method) == (name, m) and r.done}
            for m in (ours, theirs)
        ]
        shared = sorted(scores[0].keys() & scores[1].keys())
        if not shared:
            continue
        a, b = (float(np.mean([s[p] for p in shared])) for s in scores)
        reached = a <= b if SETS[name].error else a >= b
        told.append(f"{name} {'yes' if reached else 'no'} ({a:.3f}, {b:.3f})")
    return f"- {ours} at least as good as {theirs}: {'; '.join(told)}" if told else ""


def _changes(changes: list[Change]) -> str:
    if not changes:
        return ""
    lines = ["**Moved by up to 100 mm along each axis, both images independently**", ""]
    lines += ["| | runs | mean change of carl's figure | largest |", "|---|---|---|---|"]
    for name in _order(changes):
        for kind in dict.fromkeys(c.kind for c in changes if c.set == name):
            values = [c.change for c in changes if (c.set, c.kind) == (name, kind)]
            cells = [f"{name}, {SETS[name].figure}, {kind}", str(len(values))]
            cells += [f"{np.mean(values):+.4f}", f"{np.abs(values).max():.4f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _order(rows: Iterable[Row | Change]) -> list[str]:
    return list(dict.fromkeys(row.set for row in rows))

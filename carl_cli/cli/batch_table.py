"""The state of a batch on a terminal, redrawn as it changes. A log is given lines instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING

from carl_cli.cli import console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from carl_cli.batch.status import StatusRow

Listener = Callable[["StatusRow"], None]
FAILED_SHOWN = 6
DONE_SHOWN = 8
REDRAWN_PER_SECOND = 2


@contextmanager
def live_table(lanes: int) -> Iterator[Listener | None]:
    """Something to tell of every row on a terminal, else None. lanes: cases done at a time."""
    if not console.may_redraw():
        yield None
        return
    from rich.console import Console
    from rich.live import Live

    table = LiveTable(lanes)
    screen = Console(stderr=True)
    with (
        Live(get_renderable=table.drawn, console=screen, refresh_per_second=REDRAWN_PER_SECOND),
        console.only_problems(),
    ):
        yield table.note


class LiveTable:
    """How many cases are done, which are under way, which failed, the last that were done."""

    def __init__(self, lanes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows: dict[str, StatusRow] = {}
        self._changed: dict[str, float] = {}
        self._one_at_a_time = Lock()  # rows come while others are drawn
        self._lanes = lanes
        self._clock = clock
        self._began = clock()

    def note(self, row: StatusRow) -> None:
        with self._one_at_a_time:
            self._changed[row.id] = self._clock()
            self._rows[row.id] = row

    def drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        with self._one_at_a_time:
            rows = list(self._rows.values())
        return Group(Text(self.headline(rows)), self._table(rows))

    def headline(self, rows: list[StatusRow]) -> str:
        """Counts, the time that has passed, and about how long the rest takes."""
        states = [row.state for row in rows]
        counts = [f"{states.count('done')} of {len(rows)} done"]
        if states.count("failed"):
            counts.append(f"{states.count('failed')} failed")
        words = [", ".join(counts), f"{_clock_time(self._clock() - self._began)} so far"]
        left = self._left(rows)
        if left is not None:
            words.append(f"about {_clock_time(left)} to go")
        return "; ".join(words)

    def _left(self, rows: list[StatusRow]) -> float | None:
        """Seconds, by the mean of the cases that are done."""
        known = [row.seconds for row in rows if row.state == "done" and row.seconds]
        remaining = sum(row.state in ("waiting", "running") for row in rows)
        return sum(known) / len(known) * remaining / self._lanes if known and remaining else None

    def _table(self, rows: list[StatusRow]) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, expand=True)
        for name in ("case", "state", "time", "LNCC", "folds %"):
            table.add_column(name, no_wrap=True, justify="left" if name in _WORDS else "right")
        # The reasons of failures have what the figures leave of the width.
        table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
        for row in self._shown(rows):
            table.add_row(*self._cells(row), style=_STYLES[row.state])
        return table

    def _shown(self, rows: list[StatusRow]) -> list[StatusRow]:
        """All that are under way, and the last that failed or were done, newest first."""
        newest = sorted(rows, key=lambda row: -self._changed[row.id])
        found = [row for row in rows if row.state == "running"]
        for state, most in (("failed", FAILED_SHOWN), ("done", DONE_SHOWN)):
            found += [row for row in newest if row.state == state][:most]
        return found

    def _cells(self, row: StatusRow) -> tuple[str, ...]:
        seconds = row.seconds
        if row.state == "running":
            seconds = self._clock() - self._changed[row.id]
        lncc = _arrow(row.lncc_before, row.lncc)
        folds = "" if row.folded_percent is None else f"{row.folded_percent:.3f}"
        time_text = "" if seconds is None else _clock_time(seconds)
        return (row.id, row.state, time_text, lncc, folds, row.error)


_WORDS = ("case", "state")
_STYLES = {"waiting": "dim", "running": "bold", "done": "", "failed": "red"}


def _arrow(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.3f} → {after:.3f}"


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))

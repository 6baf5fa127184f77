"""The status of a batch: a CSV table for each shard, which a spreadsheet can open at any time.

While a batch runs, each change is a line at the table's end: the last line of a case counts. In
the end the table has one line for each case. What follows the last line's end was cut off.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carl_cli.batch.shards import Shard
from carl_cli.errors import OutputError
from carl_cli.io.atomic import atomic_path, make_folder
from carl_cli.io.csv import inert
from carl_cli.report.record import RunRecord

State = Literal["waiting", "running", "done", "failed"]
FILE = "status.csv"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


class StatusRow(BaseModel):
    """One case; the fields are the columns. Figures are those of its record, None before."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    line: int  # of the table of pairs
    state: State = "waiting"
    seconds: float | None = None  # by the clock, without waiting
    peak_memory_mib: float | None = None
    lncc_before: float | None = None
    lncc: float | None = None
    mean_dice: float | None = None
    tre_mean_mm: float | None = None
    folded_percent: float | None = None
    sdlogj: float | None = None
    inverse_error_mm: float | None = None
    warnings: int | None = None
    error: str = ""
    fingerprint: str = ""  # what a failure belongs to: it counts no more when inputs change
    updated: str = Field(default_factory=_now)  # UTC, ISO 8601


def done(name: str, line: int, record: RunRecord, fingerprint: str) -> StatusRow:
    """The row of a case with this record."""
    metrics = record.metrics
    inverse, landmarks = metrics.inverse_consistency_mm, metrics.tre_mm
    return StatusRow(
        id=name,
        line=line,
        state="done",
        seconds=round(sum(record.timings_s.values()), 3),
        peak_memory_mib=record.peak_memory_mib,
        lncc_before=metrics.similarity_before.lncc,
        lncc=metrics.similarity_after.lncc,
        mean_dice=metrics.mean_dice,
        tre_mean_mm=None if landmarks is None else landmarks.mean,
        folded_percent=metrics.folded_percent,
        sdlogj=metrics.sdlogj,
        inverse_error_mm=None if inverse is None else inverse.mean,
        warnings=len(record.warnings),
        fingerprint=fingerprint,
    )


class StatusTable:
    """The rows of one shard. Its file lies in a folder of the shard's own, and only one run, which
    has claimed the shard, writes it; other processes, also on other machines, may read it.

    Threads may set rows at the same time; `listener` is called with each row that is set.
    """

    def __init__(
        self, out_dir: Path, shard: Shard, listener: Callable[[StatusRow], None] | None = None
    ) -> None:
        self.path = out_dir / "shards" / shard.name / FILE
        self.rows: dict[str, StatusRow] = {}
        self._listener = listener
        self._one_at_a_time = Lock()

    def open(self, rows: Iterable[StatusRow]) -> None:
        """Start with these rows; what a killed run left half written is removed.

        Raises OutputError.
        """
        make_folder(self.path.parent)
        remove_partial(self.path.parent)
        self.rows = {row.id: row for row in rows}
        self.close()
        for row in self.rows.values():
            self._tell(row)

    def set(self, row: StatusRow) -> None:
        """Raises OutputError when the line can't be written."""
        with self._one_at_a_time:
            self.rows[row.id] = row
            self._append(row)
            self._tell(row)

    def close(self) -> None:
        """One line for each case. Raises OutputError."""
        write_rows(self.path, [row.model_dump() for row in self.rows.values()])

    def _tell(self, row: StatusRow) -> None:
        if self._listener is not None:
            self._listener(row)

    def _append(self, row: StatusRow) -> None:
        """Opened each time: on NFS other machines see a line once the file has been closed."""
        line = _csv([row.model_dump()], header=False)
        try:
            with self.path.open("a", encoding="utf-8", newline="") as stream:
                stream.write(line)
        except OSError as error:
            raise OutputError(
                f"{self.path}: can't be written: {error.strerror}", "free space, then --resume"
            ) from error


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """A CSV table without formulas, whole or not at all. Raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_text(_csv(rows), encoding="utf-8", newline="")


def _csv(rows: list[dict[str, object]], header: bool = True) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else list(StatusRow.model_fields))
    if header:
        writer.writeheader()
    writer.writerows(inert(row) for row in rows)
    return stream.getvalue()


def read_rows(out_dir: Path) -> dict[str, StatusRow]:
    """Id → row from all shards; where several tell of a case, the latest counts."""
    found: dict[str, StatusRow] = {}
    for path in sorted(out_dir.glob(f"shards/*/{FILE}")):
        for name, row in _rows(path).items():
            if name not in found or found[name].updated < row.updated:
                found[name] = row
    return found


def _rows(path: Path) -> dict[str, StatusRow]:
    """A table that someone has edited into something else counts as none: cases are redone."""
    try:
        written = path.read_bytes()
        whole = written[: written.rfind(b"\n") + 1].decode()
        lines = csv.DictReader(io.StringIO(whole, newline=""))
        last = {row["id"]: {k: v for k, v in row.items() if v} for row in lines}
        return {name: StatusRow.model_validate(row) for name, row in last.items()}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValidationError):
        return {}


def remove_partial(folder: Path, age_s: float = 0.0) -> None:
    """Delete the temporary files that a killed process left (see `carl_cli.io.atomic`).

    age_s: how old they must be, in a folder where others may be writing now.
    """
    for path in folder.glob(".*.partial*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= age_s:
                path.unlink()

"""All shards together: a table and a page, the cases that stand out marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from carl_cli.batch.status import StatusRow, read_rows, remove_partial, write_rows
from carl_cli.errors import InputError
from carl_cli.report.advice import grave_doubts
from carl_cli.report.headlines import HEADLINES, OUTLIER, badness
from carl_cli.report.index import Case, write_index
from carl_cli.report.record import RunRecord, read_record
from carl_cli.report.saved import load_case

NOT_DONE = {"waiting": "not started", "running": "not finished: running, or it was killed"}
ABANDONED_S = 3600.0
"""Age from which a temporary file is nobody's: several may merge the same parts at once."""


@dataclass(frozen=True)
class Totals:
    """Numbers of cases."""

    done: int
    failed: int
    open: int  # waiting, running or interrupted


def summarise(
    out_dir: Path,
    names: Sequence[str],
    records: Mapping[str, Path],
    *,
    thumbnails: bool = False,
) -> Totals:
    """Write summary.csv and index.html for the cases of a table, in its order.

    records: where each case's record is, finished or not. thumbnails: read the images of
    every case again for pictures on the page. Raises OutputError.
    """
    remove_partial(out_dir, ABANDONED_S)
    known = read_rows(out_dir)
    rows = [known.get(name) or StatusRow(id=name, line=0) for name in names]
    cases = [_case(row, records.get(row.id), out_dir, thumbnails) for row in rows]
    marks = _outliers([case.record for case in cases])
    table = [{**r.model_dump(), "outlier": m} for r, m in zip(rows, marks, strict=True)]
    write_rows(out_dir / "summary.csv", table)
    write_index(out_dir / "index.html", cases, title=f"Batch {out_dir.resolve().name}")
    states = [row.state for row in rows]
    done, failed = states.count("done"), states.count("failed")
    return Totals(done, failed, len(states) - done - failed)


def doubtful(records: Mapping[str, Path]) -> list[str]:
    """Names of the cases whose records, where there are any, give grave doubts."""
    found = []
    for name, path in records.items():
        if path.exists() and grave_doubts(read_record(path).metrics):
            found.append(name)
    return found


def _case(row: StatusRow, record: Path | None, out_dir: Path, thumbnails: bool) -> Case:
    if row.state != "done" or record is None:
        return Case(row.id, error=row.error or NOT_DONE.get(row.state, row.state))
    if thumbnails:
        return replace(load_case(record, out_dir), name=row.id)
    try:
        found = read_record(record)
    except InputError as error:
        return Case(row.id, error=error.message)
    page = found.outputs.get("report")
    report = record.with_name(Path(page.path).name) if page else None
    return Case(row.id, found, report.relative_to(out_dir).as_posix() if report else "")


def _outliers(records: Sequence[RunRecord | None]) -> list[str]:
    """For each case the figures by which it stands out, as on the page."""
    marks: list[list[str]] = [[] for _ in records]
    for headline in HEADLINES:
        values = [headline.value(r.metrics) if r else None for r in records]
        for mark, worse in zip(marks, badness(values, headline), strict=True):
            if worse > OUTLIER:
                mark.append(headline.name)
    return ["; ".join(mark) for mark in marks]

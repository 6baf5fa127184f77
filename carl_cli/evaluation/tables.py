"""Cases, summaries and comparisons as tables: in memory, as CSV, as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.errors import InputError
from carl_cli.evaluation.scores import Row, Scores, row_of
from carl_cli.evaluation.statistics import LEVEL, holm, interval, paired
from carl_cli.io.atomic import atomic_path
from carl_cli.io.csv import check_named_once, inert, table_lines

Table = list[dict[str, Any]]


def case_table(results: Sequence[Scores]) -> Table:
    """One row a case, the same columns in all: id, figures, error."""
    rows = [row_of(result) for result in results]
    columns = _in_order(rows)
    return [
        {"id": s.id, **{c: row.get(c, np.nan) for c in columns}, "error": s.error}
        for s, row in zip(results, rows, strict=True)
    ]


def _in_order(rows: Iterable[Row]) -> list[str]:
    """Columns that say something for some case; those of single labels last, by label."""
    seen = {c: None for row in rows for c, value in row.items() if not math.isnan(value)}
    whole = [c for c in seen if "[" not in c]
    single = [c for c in seen if "[" in c]
    return [*whole, *sorted(single, key=lambda c: (c.split("[")[0], int(c.split("[")[1][:-1])))]


def summary_table(cases: Table, resamples: int, seed: int) -> Table:
    """One row a figure: over how many cases, mean, 95 % bootstrap interval, median."""
    return [_summary(name, [row[name] for row in cases], resamples, seed) for name in _names(cases)]


def _summary(name: str, values: Sequence[float], resamples: int, seed: int) -> dict[str, Any]:
    found = interval(values, LEVEL, resamples, seed)
    known = [v for v in values if not math.isnan(v)]
    return {
        "figure": name,
        "cases": found.count,
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "median": float(np.median(known)) if known else np.nan,
    }


def comparison_table(first: Table, second: Table, resamples: int, seed: int) -> Table:
    """One row a figure that both tables have: means, second - first with interval, p values.

    Cases are paired by id. Raises InputError where the tables share no case or no figure.
    """
    a, b = ({str(row["id"]): row for row in table} for table in (first, second))
    shared = [name for name in a if name in b]
    figures = [name for name in _names(first) if name in _names(second)]
    if not shared or not figures:
        what = "case" if not shared else "figure"
        raise InputError(f"the two tables share no {what}", "give two evaluations of one study")
    rows = []
    for figure in figures:
        values = [[float(table[name][figure]) for name in shared] for table in (a, b)]
        rows.append(_compared(figure, values, resamples, seed))
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return rows


def _compared(
    figure: str, values: Sequence[Sequence[float]], resamples: int, seed: int
) -> dict[str, Any]:
    found = paired(values[0], values[1], LEVEL, resamples, seed)
    return {
        "figure": figure,
        "cases": found.difference.count,
        "first": found.first,
        "second": found.second,
        "difference": found.difference.mean,
        "low": found.difference.low,
        "high": found.difference.high,
        "p": found.p_value,
    }


def _names(table: Table) -> list[str]:
    """Columns of numbers."""
    return [k for k in table[0] if k not in ("id", "error")] if table else []


def read_case_table(path: Path) -> Table:
    """A table of cases as CSV: column `id`, and all other columns that hold numbers.

    Empty cells are undefined. Raises InputError.
    """
    lines = table_lines(path)
    header = lines[0][1] if lines else []
    if len(lines) < 2 or "id" not in header:
        raise InputError(f"{path}: no column `id`, or no case", "give what carl evaluate wrote")
    check_named_once(path, header)
    if wrong := [number for number, cells in lines if len(cells) != len(header)]:
        raise InputError(
            f"{path}, line {wrong[0]}: not as many cells as the header", "correct this line"
        )
    rows = [dict(zip(header, cells, strict=True)) for _, cells in lines[1:]]
    if twice := [r["id"] for k, r in enumerate(rows) if r["id"] in [q["id"] for q in rows[:k]]]:
        raise InputError(f"{path}: two cases are called {twice[0]!r}", "keep one of them")
    numeric = [name for name in header if name != "id" and all(_is_number(r[name]) for r in rows)]
    return [{"id": r["id"], **{n: float(r[n] or "nan") for n in numeric}} for r in rows]


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Undefined figures are written as nan; no text is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(table[0]) if table else ["id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(inert(row) for row in table)
    return stream.getvalue()


def write_csv(path: Path, table: Sequence[Mapping[str, Any]], *, replace: bool = True) -> None:
    """Whole or not at all. Raises OutputError."""
    with atomic_path(path, replace=replace) as temporary:
        temporary.write_text(as_csv(table), encoding="utf-8", newline="")


def as_json(content: Mapping[str, Any]) -> str:
    """Undefined figures are written as null: JSON has no word for them."""
    return json.dumps(_plain(content), indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

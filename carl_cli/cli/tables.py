"""Tables as a command's data: for a reader, as CSV, as JSON, to stdout or a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from carl_cli.errors import UsageError

Form = Literal["auto", "table", "csv", "json"]
Format = Annotated[
    Form,
    typer.Option("--format", help="Form on stdout; auto: a table on a terminal, CSV elsewhere."),
]
Out = Annotated[Path | None, typer.Option("--output", "-o", help="File to write: .csv or .json.")]
Rows = Sequence[Mapping[str, Any]]


def deliver(
    form: Form,
    out: Path | None,
    *,
    rows: Rows,
    shown: Rows,
    content: Mapping[str, Any],
) -> None:
    """rows: for CSV. shown: for a reader. content: for JSON. With a file the reader's table is
    shown too. The path was checked by `check_out`. Raises OutputError."""
    from carl_cli.evaluation.tables import as_csv, as_json

    if out is not None:
        _write(out, {".csv": as_csv(rows), ".json": as_json(content)})
    if form == "auto":
        form = "table" if sys.stdout.isatty() or out is not None else "csv"
    if form == "table":
        _show(shown)
    else:
        typer.echo(as_csv(rows) if form == "csv" else as_json(content), nl=False)


def check_out(out: Path | None, overwrite: bool) -> None:
    """Raises UsageError for another suffix, OutputError for a path that can't be written."""
    from carl_cli.cli.options.shared import check_outputs

    if out is not None and out.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"{out}: a table is written as .csv or .json", "change the suffix")
    check_outputs([out] if out else [], overwrite)


def _write(out: Path, forms: Mapping[str, str]) -> None:
    from carl_cli.io.atomic import atomic_path

    with atomic_path(out) as temporary:
        temporary.write_text(forms[out.suffix.lower()], encoding="utf-8", newline="")


def _show(rows: Rows) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        numeric = not isinstance(rows[0][name], str)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    # A pipe has no width: nothing of a table may be cut away.
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

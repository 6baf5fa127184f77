"""`carl report`: pages from what a registration saved."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from carl_cli.cli.options.described import described_as, option
from carl_cli.cli.options.shared import Overwrite, warn_confidence
from carl_cli.workflows.request import CaseInputs

FILES = "Files, in place of those in the record"
_file = partial(option, FILES)
_input = partial(described_as, CaseInputs, panel=FILES)


def report(
    records: Annotated[
        list[Path] | None,
        typer.Argument(help="Run records that `carl register --json` wrote.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The HTML page to write.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="A picture too: .png, .svg or .pdf.")
    ] = None,
    fixed: Annotated[Path | None, _file("--fixed", help="Fixed image.")] = None,
    moving: Annotated[Path | None, _file("--moving", help="Moving image.")] = None,
    transform: Annotated[
        Path | None, _file("--transform", "-t", help="Transform, fixed to moving points.")
    ] = None,
    warped: Annotated[
        Path | None, _file("--warped", "-w", help="Moving image on the fixed grid.")
    ] = None,
    jacobian: Annotated[Path | None, _file("--jacobian", help="Jacobian determinant.")] = None,
    match_spread: Annotated[
        Path | None, _file("--match-spread", help="Spread of the match, mm.")
    ] = None,
    confidence: Annotated[
        Path | None, _file("--confidence", help="--match-spread.", hidden=True)
    ] = None,
    fixed_seg: Annotated[Path | None, _input("fixed_seg")] = None,
    moving_seg: Annotated[Path | None, _input("moving_seg")] = None,
    label_names: Annotated[Path | None, _input("label_names")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make an HTML report of a run, or an index page of several.

    One run: `carl report run.json -o report.html`

    Several, those that stand out first: `carl report runs/*.json -o index.html`

    Without a record: `carl report --fixed F --moving M -t T -o report.html`, where the
    transform may come from another program.
    """
    from carl_cli.cli.console import start
    from carl_cli.cli.options.shared import check_outputs
    from carl_cli.errors import UsageError

    start()
    outputs = [path for path in (output, figure) if path]
    if not outputs:
        raise UsageError("no output was asked for", "add -o report.html or --figure picture.png")
    check_outputs(outputs, overwrite)
    if confidence is not None:
        warn_confidence()
    given = {
        "fixed": fixed,
        "moving": moving,
        "forward": transform,
        "warped": warped,
        "jacobian": jacobian,
        "match_spread": match_spread or confidence,
        "fixed_seg": fixed_seg,
        "moving_seg": moving_seg,
    }
    if records and len(records) > 1:
        _index(records, output, figure, given | {"label_names": label_names})
    else:
        _single(records[0] if records else None, output, figure, given, label_names)


def _single(
    record: Path | None,
    output: Path | None,
    figure: Path | None,
    given: dict[str, Path | None],
    label_names: Path | None,
) -> None:
    from carl_cli.io.label_names import read_label_names
    from carl_cli.report.figure import check_figure_path
    from carl_cli.report.saved import load_run

    if figure:
        check_figure_path(figure)
    run = load_run(record, given, read_label_names(label_names) if label_names else {})
    if output:
        run.write_report(output)
    if figure:
        run.save_figure(figure)


def _index(
    records: list[Path], output: Path | None, figure: Path | None, given: dict[str, Path | None]
) -> None:
    from carl_cli.errors import UsageError
    from carl_cli.report.index import write_index
    from carl_cli.report.saved import load_case

    if figure or output is None or any(given.values()):
        raise UsageError(
            "several records were given, which make an index page: only -o goes with them",
            "give one record for a figure, or to name its files",
        )
    cases = [load_case(record, output.parent) for record in records]
    write_index(output, cases, title=f"Registrations in {output.resolve().parent.name}")

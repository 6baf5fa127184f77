"""`carl evaluate`: figures of registrations that are there, and whether two runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carl_cli.cli.evaluate_network import register_commands
from carl_cli.cli.evaluate_protocol import protocol
from carl_cli.cli.options import shared as options
from carl_cli.cli.options.described import described_as, option
from carl_cli.cli.options.grouping import application
from carl_cli.cli.tables import Format, Out, check_out, deliver
from carl_cli.errors import BatchError, CarlError, UsageError
from carl_cli.workflows.request import CaseInputs

if TYPE_CHECKING:
    from carl_cli.evaluation.cases import CaseFiles
    from carl_cli.evaluation.scores import Scores

FILES = "Files of one case"
_file = partial(option, FILES)
_input = partial(described_as, CaseInputs, panel=FILES)

# `carl evaluate CASES` is short for `carl evaluate score CASES`.
app = application(
    default="score",
    help="""Score registrations, whoever made them, and compare them.

    What follows carl evaluate directly goes to carl evaluate score: its options are shown here.

    Examples:

        carl evaluate -t T.h5 --fixed-seg F.nii.gz --moving-seg M.nii.gz
        carl evaluate results -o ours.csv             the folder of carl batch
        carl evaluate cases.csv -o theirs.csv         a table of files
        carl evaluate compare theirs.csv ours.csv     do the two differ?
    """,
)

Boxes = Annotated[
    Path | None,
    typer.Option("--figure", help="Box plots of Dice label by label: .png, .svg or .pdf."),
]
Resamples = Annotated[
    int, typer.Option("--resamples", min=100, help="Number of bootstrap resamples.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")]


@app.command()
def score(
    cases: Annotated[
        Path | None,
        typer.Argument(help="Table of cases (CSV), or the folder that carl batch wrote."),
    ] = None,
    fixed: Annotated[Path | None, _file("--fixed", "-f", help="Fixed image.")] = None,
    moving: Annotated[Path | None, _file("--moving", "-m", help="Moving image.")] = None,
    transform: Annotated[
        list[str] | None,
        _file("--transform", "-t", help="Chain as for carl warp. Default: the identity."),
    ] = None,
    inverse: Annotated[
        list[str] | None,
        _file("--inverse", help="Chain from moving to fixed points, for inverse consistency."),
    ] = None,
    fixed_mask: Annotated[
        Path | None, _file("--fixed-mask", "-x", help="Where folds and similarity are measured.")
    ] = None,
    fixed_seg: Annotated[Path | None, _input("fixed_seg")] = None,
    moving_seg: Annotated[Path | None, _input("moving_seg")] = None,
    fixed_points: Annotated[Path | None, _input("fixed_points")] = None,
    moving_points: Annotated[Path | None, _input("moving_points")] = None,
    form: Format = "auto",
    out: Out = None,
    figure: Boxes = None,
    resamples: Resamples = 10_000,
    seed: Seed = 0,
    overwrite: options.Overwrite = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    log_file: options.LogFile = None,
) -> None:
    """Dice, surface distances, landmark errors, folds, inverse consistency, similarity.

    Columns of a table: id, fixed, moving, transform, inverse, fixed_mask, fixed_seg, moving_seg,
    fixed_points, moving_points; all may be left out, and a figure appears where its files are
    given. Several transforms of a chain are separated by |. Relative paths start at the table's
    folder.

    A figure that is undefined, as the Dice of a label that one image lacks, is nan and enters no
    mean. Several cases are summed up with 95 % bootstrap intervals over cases. A case that can't
    be read doesn't stop the others; the exit code is 6 then.

    Examples:

        carl evaluate -f F.nii.gz -m M.nii.gz -t T.h5
        carl evaluate -t T.h5 --fixed-seg F.nii.gz --moving-seg M.nii.gz
        carl evaluate results -o scores.csv
    """
    from carl_cli.cli.console import LOGGER, start

    start(verbose, quiet, log_file)
    check_out(out, overwrite)
    _check_figure(figure, overwrite)
    files = {
        "fixed": fixed,
        "moving": moving,
        "transform": tuple(transform or ()),
        "inverse": tuple(inverse or ()),
        "fixed_mask": fixed_mask,
        "fixed_seg": fixed_seg,
        "moving_seg": moving_seg,
        "fixed_points": fixed_points,
        "moving_points": moving_points,
    }
    listed = _cases(cases, {name: value for name, value in files.items() if value})
    for one, other in (("fixed_seg", "moving_seg"), ("fixed_points", "moving_points")):
        if bool(files[one]) != bool(files[other]):
            missing = (one if files[other] else other).replace("_", "-")
            LOGGER.warning("--%s is missing: no score without both sides", missing)

    from carl_cli.evaluation.tables import case_table, summary_table

    results = [_scored(case) for case in listed] if cases else [_direct(listed[0])]
    table = case_table(results)
    summary = summary_table(table, resamples, seed)
    full = {"cases": [r.model_dump(mode="json") for r in results], "summary": summary}
    shown = summary if cases else [{"figure": s["figure"], "value": s["mean"]} for s in summary]
    deliver(form, out, rows=table, shown=shown, content=full)
    _draw({"this run": table}, figure)
    failed = [result for result in results if result.error]
    for result in failed:
        LOGGER.error("%s: %s", result.id, result.error)
    if failed:
        raise BatchError(
            f"{len(failed)} of {len(results)} cases can't be scored", "check their files"
        )


def _cases(source: Path | None, files: dict[str, Any]) -> Sequence[CaseFiles]:
    from carl_cli.evaluation.cases import cases_of, one_case

    if source is not None and files:
        raise UsageError(
            "a table of cases and files of one case were both given", "give one of them"
        )
    if source is None and not files:
        raise UsageError("nothing to score", "give a table, a folder of carl batch, or files")
    return [one_case({"id": "1", **files}, Path.cwd())] if source is None else cases_of(source)


def _direct(case: CaseFiles) -> Scores:
    from carl_cli.evaluation.scores import score_files

    return score_files(case)


def _scored(case: CaseFiles) -> Scores:
    """What goes wrong with one case of several is its own affair."""
    from carl_cli.evaluation.scores import Scores

    try:
        return _direct(case)
    except CarlError as error:
        return Scores(id=case.id, error=error.message)


register_commands(app)
app.command()(protocol)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.csv", help="Cases of one run.")],
    second: Annotated[Path, typer.Argument(metavar="B.csv", help="The same cases of another.")],
    form: Format = "auto",
    out: Out = None,
    figure: Boxes = None,
    resamples: Resamples = 10_000,
    seed: Seed = 0,
    overwrite: options.Overwrite = False,
) -> None:
    """Do two runs differ? Cases are paired by id: B - A for each figure that both tables have.

    The interval of the mean difference is a 95 % bootstrap interval over cases. p is Wilcoxon's
    signed-rank test, two-sided, exact with ties for up to 400 cases; p_holm corrects it for the
    number of figures. Tables are what carl evaluate -o writes, or summary.csv of carl batch.
    """
    from carl_cli.cli.console import start

    start()
    check_out(out, overwrite)
    _check_figure(figure, overwrite)

    from carl_cli.evaluation.tables import comparison_table, read_case_table

    tables = read_case_table(first), read_case_table(second)
    rows = comparison_table(*tables, resamples, seed)
    content = {"first": str(first), "second": str(second), "figures": rows}
    deliver(form, out, rows=rows, shown=rows, content=content)
    _draw({first.stem: tables[0], second.stem: tables[1]}, figure)


def _check_figure(figure: Path | None, overwrite: bool) -> None:
    """Raises UsageError for another suffix, OutputError for a path that can't be written."""
    from carl_cli.cli.options.shared import check_outputs

    if figure is not None and figure.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{figure}: a figure is .png, .svg or .pdf", "change the suffix")
    check_outputs([figure] if figure else [], overwrite)


def _draw(runs: dict[str, Any], figure: Path | None) -> None:
    if figure is not None:
        from carl_cli.evaluation.boxes import draw_boxes

        draw_boxes(runs, figure)

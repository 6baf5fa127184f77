"""The arguments that `carl batch` has and `carl register` has not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from carl_cli.cli.options.register import OUTPUTS

PAIRS = "The pairs"
SCHEDULE = "Going on, and sharing the work"


def _option(panel: str, *names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel)


@dataclass(frozen=True)
class TableArguments:
    pairs: Annotated[
        Path | None,
        typer.Argument(help="CSV or TSV with a header: fixed, moving and optional columns."),
    ] = None
    fixed_dir: Annotated[
        Path | None, _option(PAIRS, "--fixed-dir", help="Instead of a table: fixed images.")
    ] = None
    moving_dir: Annotated[
        Path | None, _option(PAIRS, "--moving-dir", help="Moving images of the same names.")
    ] = None
    pattern: Annotated[
        str,
        _option(
            PAIRS, "--pattern", help="Which files of these folders; {id} marks the case's name."
        ),
    ] = "*.nii.gz"
    fixed_pattern: Annotated[
        str | None,
        _option(PAIRS, "--fixed-pattern", help="Of fixed files alone, as in {id}/{id}_ct.nii.gz."),
    ] = None
    moving_pattern: Annotated[
        str | None, _option(PAIRS, "--moving-pattern", help="Of moving files alone.")
    ] = None
    atlas: Annotated[
        Path | None,
        _option(PAIRS, "--atlas", help="One fixed image for all of --moving-dir or --bids."),
    ] = None
    bids: Annotated[
        Path | None, _option(PAIRS, "--bids", help="BIDS dataset of the moving images (pybids).")
    ] = None
    bids_filter: Annotated[
        list[str] | None,
        _option(
            PAIRS, "--bids-filter", help="Which: entity=value; repeatable. Default: suffix=T1w."
        ),
    ] = None
    keep_going: Annotated[
        bool,
        _option(
            PAIRS,
            "--keep-going",
            help="Count bad lines of the table as failed cases. Default: start nothing.",
        ),
    ] = False


@dataclass(frozen=True)
class FolderArguments:
    """Field names after out_dir and overwrite are roles of CaseOutputs."""

    out_dir: Annotated[
        Path, _option(OUTPUTS, "--out-dir", "-o", help="A folder for each case is made in it.")
    ]
    warped: Annotated[
        bool, _option(OUTPUTS, "--warped/--no-warped", help="Moving images on the fixed grids.")
    ] = True
    inverse: Annotated[bool, _option(OUTPUTS, "--inverse", help="Numerical inverses.")] = False
    inverse_warped: Annotated[
        bool, _option(OUTPUTS, "--inverse-warped", help="Fixed images on the moving grids.")
    ] = False
    jacobian: Annotated[bool, _option(OUTPUTS, "--jacobian", help="Jacobian determinants.")] = False
    match_spread: Annotated[
        bool, _option(OUTPUTS, "--match-spread", help="Spread of the matches in mm.")
    ] = False
    figure: Annotated[bool, _option(OUTPUTS, "--figure", help="A picture of each case.")] = False
    report: Annotated[bool, _option(OUTPUTS, "--report", help="An HTML page for each case.")] = (
        False
    )
    thumbnails: Annotated[
        bool,
        _option(OUTPUTS, "--thumbnails", help="Pictures in index.html; reads all images again."),
    ] = False
    overwrite: Annotated[
        bool, _option(OUTPUTS, "--overwrite", help="Do all again, replace what exists.")
    ] = False

    def roles(self) -> tuple[str, ...]:
        chosen = asdict(self)
        others = ("out_dir", "thumbnails", "overwrite")
        return tuple(name for name, wanted in chosen.items() if wanted and name not in others)


@dataclass(frozen=True)
class ScheduleArguments:
    resume: Annotated[
        bool,
        _option(SCHEDULE, "--resume", help="Skip what is done, by content, and what failed."),
    ] = False
    retry_failed: Annotated[
        bool, _option(SCHEDULE, "--retry-failed", help="--resume, but try failed cases again.")
    ] = False
    shard: Annotated[
        str | None,
        _option(SCHEDULE, "--shard", help="I/N: part I of N. Default: the Slurm array's part."),
    ] = None
    workers: Annotated[
        int,
        _option(
            SCHEDULE,
            "--workers",
            help="Processes; they share the threads. On GPUs, one for each visible GPU.",
        ),
    ] = 1
    share_gpu: Annotated[
        bool, _option(SCHEDULE, "--share-gpu", help="Several workers on one GPU.")
    ] = False
    summary: Annotated[
        bool,
        _option(SCHEDULE, "--summary", help="Only merge what all shards did into the summary."),
    ] = False

"""The arguments that `carl batch` has and `carl register` lacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from carl_cli.cli.options.described import OUTPUTS, described_as, option
from carl_cli.cli.options.register import SPLIT
from carl_cli.cli.options.shared import warn_confidence
from carl_cli.workflows.request import CaseOutputs

PAIRS = "The pairs"
SCHEDULE = "Resuming, and sharing the work"


def _role(role: str, flag: str = "") -> OptionInfo:
    """Whether an output is wanted of every case, as `carl register` describes it."""
    return described_as(CaseOutputs, role, flag or "--" + role.replace("_", "-"))


@dataclass(frozen=True)
class TableArguments:
    pairs: Annotated[
        Path | None,
        typer.Argument(help="CSV or TSV with a header: fixed, moving and optional columns."),
    ] = None
    fixed_dir: Annotated[
        Path | None,
        option(PAIRS, "--fixed-dir", help="Folder of fixed images, in place of a table."),
    ] = None
    moving_dir: Annotated[
        Path | None,
        option(PAIRS, "--moving-dir", help="Folder of moving images with the same names."),
    ] = None
    pattern: Annotated[
        str,
        option(PAIRS, "--pattern", help="Which files to take; {id} marks the name of the case."),
    ] = "*.nii.gz"
    fixed_pattern: Annotated[
        str | None,
        option(
            PAIRS,
            "--fixed-pattern",
            help="Pattern of fixed files alone, as in {id}/{id}_ct.nii.gz.",
        ),
    ] = None
    moving_pattern: Annotated[
        str | None, option(PAIRS, "--moving-pattern", help="Pattern of moving files alone.")
    ] = None
    atlas: Annotated[
        Path | None,
        option(PAIRS, "--atlas", help="One fixed image for all of --moving-dir or --bids."),
    ] = None
    bids: Annotated[
        Path | None, option(PAIRS, "--bids", help="BIDS dataset of the moving images (pybids).")
    ] = None
    bids_filter: Annotated[
        list[str] | None,
        option(
            PAIRS,
            "--bids-filter",
            help="Which of its images to take: entity=value; repeatable. Default: suffix=T1w.",
        ),
    ] = None
    keep_going: Annotated[
        bool,
        option(
            PAIRS,
            "--keep-going",
            help="Count bad lines of the table as failed cases. Default: start nothing.",
        ),
    ] = False


@dataclass(frozen=True)
class FolderArguments:
    """Names of flags are roles, see `case_outputs`. confidence: what --match-spread was called."""

    out_dir: Annotated[
        Path,
        option(OUTPUTS, "--out-dir", "-o", help="Folder for the results; each case gets its own."),
    ]
    warped: Annotated[bool, _role("warped", "--warped/--no-warped")] = True
    inverse: Annotated[bool, _role("inverse")] = False
    split: Annotated[bool, option(OUTPUTS, "--split", help=SPLIT)] = False
    inverse_warped: Annotated[bool, _role("inverse_warped")] = False
    jacobian: Annotated[bool, _role("jacobian")] = False
    match_spread: Annotated[bool, _role("match_spread")] = False
    confidence: Annotated[
        bool, option(OUTPUTS, "--confidence", help="--match-spread.", hidden=True)
    ] = False
    figure: Annotated[bool, _role("figure")] = False
    report: Annotated[bool, _role("report")] = False
    thumbnails: Annotated[
        bool,
        option(
            OUTPUTS, "--thumbnails", help="Show pictures in index.html; reads all images again."
        ),
    ] = False
    overwrite: Annotated[
        bool, option(OUTPUTS, "--overwrite", help="Do every case again and replace what exists.")
    ] = False

    def roles(self) -> tuple[str, ...]:
        chosen = asdict(self)
        if chosen.pop("confidence"):
            warn_confidence()
            chosen["match_spread"] = True
        others = ("out_dir", "thumbnails", "overwrite")
        return tuple(name for name, wanted in chosen.items() if wanted and name not in others)


@dataclass(frozen=True)
class WorkArguments:
    """How work is shared, and continued."""

    resume: Annotated[
        bool,
        option(
            SCHEDULE,
            "--resume",
            help="Skip cases that have failed, or are done with the same files and options.",
        ),
    ] = False
    retry_failed: Annotated[
        bool, option(SCHEDULE, "--retry-failed", help="Like --resume, but try failed cases again.")
    ] = False
    workers: Annotated[
        int,
        option(
            SCHEDULE,
            "--workers",
            help="Number of processes, which share the threads; on GPUs at most one for each.",
        ),
    ] = 1
    share_gpu: Annotated[
        bool, option(SCHEDULE, "--share-gpu", help="Allow several workers on one GPU.")
    ] = False


@dataclass(frozen=True)
class ScheduleArguments(WorkArguments):
    shard: Annotated[
        str | None,
        option(SCHEDULE, "--shard", help="I/N: part I of N. Default: the Slurm array's part."),
    ] = None
    summary: Annotated[
        bool,
        option(
            SCHEDULE, "--summary", help="Only merge the results of all shards into the summary."
        ),
    ] = False

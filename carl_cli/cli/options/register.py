"""Arguments of `carl register` that no library room has a use for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from carl_cli.cli.options.described import INSTANCE, OUTPUTS, PAIR, option
from carl_cli.cli.options.grouping import Some
from carl_cli.cli.options.shared import LogFile, Overwrite, Quiet, Threads, Verbose
from carl_cli.weights.options import InstanceChoices

SPLIT = "Write the affine part and the warp as two files too."


@dataclass(frozen=True)
class PairArguments:
    fixed: Annotated[
        Path | None, typer.Argument(help="Image that stays: the result lies on its grid.")
    ] = None
    moving: Annotated[
        Path | None, typer.Argument(help="Image that is resampled onto the fixed one.")
    ] = None
    fixed_named: Annotated[
        Path | None, option(PAIR, "--fixed", "-f", "--ref", help="The fixed image, by name.")
    ] = None
    moving_named: Annotated[
        Path | None, option(PAIR, "--moving", "-m", "--flo", help="The moving image, by name.")
    ] = None


@dataclass(frozen=True)
class OverwriteArguments:
    """split, ants_prefix: see `CaseOutputs`. confidence: what --match-spread was called."""

    split: Annotated[
        bool,
        option(
            OUTPUTS,
            "--split",
            help=f"{SPLIT} For -o T.h5: T0GenericAffine.mat, T1Warp.nii.gz, T1InverseWarp.nii.gz.",
        ),
    ] = False
    ants_prefix: Annotated[
        str | None,
        option(
            OUTPUTS,
            "--ants-prefix",
            metavar="P",
            help="Write P0GenericAffine.mat, P1Warp.nii.gz and P1InverseWarp.nii.gz, as "
            "antsRegistration does; -o may be left out.",
        ),
    ] = None

    overwrite: Overwrite = False
    confidence: Annotated[
        Path | None, option(OUTPUTS, "--confidence", help="--match-spread.", hidden=True)
    ] = None


@dataclass(frozen=True)
class InstanceArguments:
    """What is not chosen is left to the weights."""

    io: Annotated[bool, option(INSTANCE, "--io/--no-io", help="Fit the result to this pair.")] = (
        False
    )
    chosen: Some[InstanceChoices] = field(default_factory=Some)


@dataclass(frozen=True)
class RunArguments:
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check the inputs; compute nothing.")
    ] = False
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with code 8 when similarity did not improve, less than 20 % overlaps, or "
            "more than 0.03 % folds; all outputs are written. Images with a tilted gantry, uneven "
            "slices or a sheared header are refused, not resampled.",
        ),
    ] = False
    threads: Threads = None
    verbose: Verbose = False
    quiet: Quiet = False
    log_file: LogFile = None

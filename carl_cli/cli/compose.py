"""`carl compose`: a chain of transforms as one file."""

from __future__ import annotations

from typing import Annotated

import typer

from carl_cli.cli.options.shared import LogFile, Overwrite, Quiet, Verbose
from carl_cli.cli.options.transform import FieldSpacing, Intent, Output, Precision, Reference


def compose(
    transforms: Annotated[
        list[str],
        typer.Option(
            "--transform",
            "-t",
            metavar="T | [T,1] | T,-1",
            help="Transform, or its inverse, in the order of antsApplyTransforms: points of the "
            "fixed image meet the first one first.",
        ),
    ],
    output: Output,
    reference: Reference = None,
    field_spacing: FieldSpacing = None,
    precision: Precision = "float",
    intent: Intent = "1007",
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Chain transforms into one.

    carl compose -t 1Warp.nii.gz -t 0GenericAffine.mat -o both.h5
    """
    from carl_cli.cli.console import start
    from carl_cli.cli.outputs import check_outputs
    from carl_cli.workflows.transform import Storage
    from carl_cli.workflows.transform import compose as run

    start(verbose, quiet, log_file)
    check_outputs([output], overwrite)
    run(
        transforms,
        output,
        Storage(
            reference,
            field_spacing,
            precision,
            1006 if intent == "1006" else 1007,
            overwrite=overwrite,
        ),
    )

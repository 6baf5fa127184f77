"""`carl invert`: the inverse of a transform as a file."""

from __future__ import annotations

from typing import Annotated

import typer

from carl_cli.cli.options.shared import LogFile, Overwrite, Quiet, Verbose
from carl_cli.cli.options.transform import FieldSpacing, Intent, Output, Precision, Reference


def invert(
    transform: Annotated[str, typer.Argument(metavar="T", help="The transform to invert.")],
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
    """Invert a transform.

    Affine parts exactly, fields numerically. What the written inverse leaves, in mm, goes to
    stdout. --reference is the moving image here: the inverse lives on its grid.

    carl invert forward.h5 -r moving.nii.gz -o inverse.nii.gz
    """
    from carl_cli.cli.console import start
    from carl_cli.cli.outputs import check_outputs
    from carl_cli.workflows.transform import Storage
    from carl_cli.workflows.transform import invert as run

    start(verbose, quiet, log_file)
    check_outputs([output], overwrite)
    residuals = run(
        transform,
        output,
        Storage(
            reference,
            field_spacing,
            precision,
            1006 if intent == "1006" else 1007,
            overwrite=overwrite,
        ),
    )
    for name, residual in residuals.items():
        where, ordered = name.replace(" ", "_"), sorted(residual)
        typer.echo(f"residual_mm_p99_{where} {ordered[int(0.99 * (len(ordered) - 1))]:.4g}")
        typer.echo(f"residual_mm_max_{where} {ordered[-1]:.4g}")

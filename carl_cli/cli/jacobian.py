"""`carl jacobian`: the Jacobian determinant of a transform as an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carl_cli.cli.options.shared import LogFile, Overwrite, Quiet, Verbose


def jacobian(
    transform: Annotated[str, typer.Argument(metavar="T", help="Transform, or [T,1].")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The image to write.")],
    reference: Annotated[
        Path | None,
        typer.Option("--reference", "-r", help="The fixed image. Default: the field's own grid."),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Write the natural logarithm.")] = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Write the Jacobian determinant: 1 keeps the volume, 0 or less is a fold.

    A summary goes to stdout.

    carl jacobian forward.h5 -r fixed.nii.gz -o jacobian.nii.gz
    """
    from carl_cli.cli.console import start
    from carl_cli.cli.outputs import check_outputs
    from carl_cli.workflows.transform import write_jacobian

    start(verbose, quiet, log_file)
    check_outputs([output], overwrite)
    summary = write_jacobian(transform, output, reference, log, overwrite)
    for name, value in summary.items():
        typer.echo(f"{name} {value:.6g}")

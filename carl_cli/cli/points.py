"""`carl points`: landmarks carried from one image to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from carl_cli.cli.options.shared import LogFile, Overwrite, Quiet, Verbose


def points(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="Points (.csv .txt .fcsv .mrk.json .vtk), a surface (.gii .stl .ply .obj or "
            "FreeSurfer's) or streamlines (.tck .trk).",
        ),
    ],
    transforms: Annotated[
        list[str],
        typer.Option(
            "--transform",
            "-t",
            metavar="T | [T,1] | T,-1",
            help="The chain that resamples the moving image, as for carl warp.",
        ),
    ],
    side: Annotated[
        Literal["fixed", "moving"],
        typer.Option("--from", help="The image in which the points of IN lie."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The points in the other image.")],
    coords: Annotated[
        Literal["LPS", "RAS"] | None,
        typer.Option(
            "--coords", help="Frame of the numbers in IN, in place of what the file says."
        ),
    ] = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Map points and landmarks.

    Give the chain as for warping and say where the points are; the direction follows. Columns,
    labels, cells and the frame of the input file are kept.

    Examples:

        carl points fixed.csv -t forward.h5 --from fixed -o in_moving.csv
        carl points m.mrk.json -t forward.h5 --from moving -o in_fixed.mrk.json
        carl points surface.gii -t forward.h5 --from fixed -o moved.gii
    """
    from carl_cli.cli.console import start
    from carl_cli.cli.options.shared import check_outputs
    from carl_cli.workflows.transform import map_points

    start(verbose, quiet, log_file)
    check_outputs([output], overwrite)
    map_points(source, transforms, side, output, coords, overwrite)

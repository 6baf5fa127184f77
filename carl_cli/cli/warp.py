"""`carl warp`: resample images or labels onto a grid through a chain of transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from carl_cli.cli.options.completion import interpolations
from carl_cli.cli.options.shared import Chain, LogFile, Overwrite, Quiet, Threads, Verbose
from carl_cli.errors import UsageError


def warp(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Moving images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The warped image; for several inputs a folder.")
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            "-r",
            help="The fixed image, whose grid the result gets. Default: that of INPUT.",
        ),
    ] = None,
    transforms: Annotated[list[str] | None, Chain] = None,
    interpolation: Annotated[
        str,
        typer.Option(
            "--interpolation",
            "-n",
            autocompletion=interpolations,
            help="linear, nearest, bspline[1-5], gaussian[SIGMA,ALPHA], lanczosWindowedSinc (and "
            "hamming, cosine, welch, blackman), or for labels genericLabel, "
            "multiLabel[SIGMA,ALPHA].",
        ),
    ] = "linear",
    background: Annotated[
        float, typer.Option("--background", "-f", help="Value outside the moving image.")
    ] = 0.0,
    output_type: Annotated[
        str,
        typer.Option(
            "--output-type",
            "-u",
            metavar="TYPE",
            help="Voxel type: input, char, uchar, short, ushort, int, uint, float, double, "
            "or numpy's name.",
        ),
    ] = "input",
    image_type: Annotated[
        str | None,
        typer.Option(
            "--input-image-type",
            "-e",
            metavar="KIND",
            help="What INPUT holds: scalar, tensor, time-series or multichannel. Default: as its "
            "header says.",
        ),
    ] = None,
    reorient: Annotated[
        Literal["ppd", "finite-strain", "none"] | None,
        typer.Option(
            "--reorient",
            help="How diffusion tensors are turned: ppd keeps their principal direction on the "
            "tissue, finite-strain takes the nearest rotation. Default: ppd.",
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            "--spacing", metavar="MM[,MM,MM]", help="Other voxel spacing over the same extent."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="N[,N,N]", help="Other voxel count over the same extent."),
    ] = None,
    header_only: Annotated[
        bool,
        typer.Option(
            "--header-only",
            help="Turn the header instead of resampling the voxels: exact, for rigid transforms. "
            "The result keeps INPUT's voxels and spacing.",
        ),
    ] = False,
    intensity_conservation: Annotated[
        bool,
        typer.Option(
            "--intensity-conservation",
            help="Multiply by the Jacobian determinant: mass is kept, counted from --background "
            "(CT: -f -1000). Integers become float32.",
        ),
    ] = False,
    series_uid: Annotated[
        str | None,
        typer.Option("--series-uid", help="Which series of a DICOM folder to read."),
    ] = None,
    dicom_out: Annotated[
        Path | None,
        typer.Option(
            "--dicom-out",
            metavar="FOLDER",
            help="Write the warped image as a DICOM series too: new UIDs, the reference's frame, "
            "INPUT's modality.",
        ),
    ] = None,
    dicom_identity: Annotated[
        Literal["new", "keep"],
        typer.Option(
            "--dicom-identity",
            help="Of the DICOM series: new, without a patient, or keep the patient and the study "
            "of INPUT.",
        ),
    ] = "new",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse images with a tilted gantry, uneven slices or a sheared header, which "
            "are resampled otherwise.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
    threads: Threads = None,
) -> None:
    """Resample images or labels onto a grid, through transforms.

    Labels need -n genericlabel: any other interpolation but nearest makes new values of them.

    Examples:

        carl warp moving.nii.gz -r fixed.nii.gz -t forward.h5 -o warped.nii.gz
        carl warp seg.nii.gz -r fixed.nii.gz -t T.h5 -n genericlabel -o L.nii.gz
        carl warp fixed.nii.gz -r moving.nii.gz -t '[affine.mat,1]' -o W.nii.gz
        carl warp image.nii.gz --spacing 2 -o coarse.nii.gz
    """
    from carl_cli.cli.console import start
    from carl_cli.cli.options.shared import check_outputs
    from carl_cli.workflows.dicom_series import DicomSeries
    from carl_cli.workflows.grids import target_grid
    from carl_cli.workflows.warp import Resampling, output_paths, warp_files

    start(verbose, quiet, log_file, threads)
    if header_only and (spacing or size or intensity_conservation):
        raise UsageError(
            "--header-only was given with --spacing, --size or --intensity-conservation",
            "leave them out: it keeps the voxels as they are",
        )
    outputs = output_paths(inputs, output)
    check_outputs(outputs, overwrite)
    fixed = reference or inputs[0]
    fixed_uid = None if reference else series_uid
    warp_files(
        inputs,
        outputs,
        target_grid(fixed, _numbers(spacing), _counts(size), fixed_uid),
        transforms or [],
        Resampling(
            interpolation,
            background,
            output_type,
            image_type,
            reorient,
            header_only,
            intensity_conservation,
        ),
        series_uid,
        DicomSeries(dicom_out, fixed, dicom_identity) if dicom_out else None,
        fixed,
        strict,
        overwrite,
    )


def _numbers(text: str | None) -> list[float] | None:
    """`2` or `1,1,2.5` or `1x1x2.5`."""
    try:
        return None if text is None else [float(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is not a list of numbers", "write 2 or 1,1,2.5") from None


def _counts(text: str | None) -> list[int] | None:
    numbers = _numbers(text)
    if numbers is not None and not all(n.is_integer() for n in numbers):
        raise UsageError(f"--size {text}: whole numbers were expected")
    return None if numbers is None else [int(n) for n in numbers]

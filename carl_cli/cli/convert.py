"""`carl convert`: a transform in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from carl_cli.cli.options.shared import LogFile, Overwrite, Quiet, Verbose
from carl_cli.cli.options.transform import FieldSpacing, Intent, Output, Precision, Reference
from carl_cli.io.transforms import Program


def convert(
    transform: Annotated[Path, typer.Argument(metavar="T", help="The transform to convert.")],
    output: Output,
    source: Annotated[
        Program | None,
        typer.Option(
            "--from",
            help="Program whose conventions T follows: greedy and niftyreg (4x4 text; niftyreg's "
            "fields and control points), easyreg and spm (RAS positions), synthmorph (RAS "
            "displacements), lta, fsl (FLIRT and FNIRT, with -r and -m). Files of ITK, ANTs, "
            "Slicer, greedy's and SPM's fields need none.",
        ),
    ] = None,
    target: Annotated[
        Program | None, typer.Option("--to", help="Program whose conventions the output follows.")
    ] = None,
    reference: Reference = None,
    moving: Annotated[
        Path | None,
        typer.Option("--moving", "-m", help="The moving image, which lta and fsl go with."),
    ] = None,
    dicom_identity: Annotated[
        Literal["new", "keep"],
        typer.Option(
            "--dicom-identity",
            help="Of a DICOM registration (.dcm): new, without a patient, or keep that of -r.",
        ),
    ] = "new",
    field_spacing: FieldSpacing = None,
    precision: Precision = "float",
    intent: Intent = "1007",
    repair_folds: Annotated[
        bool, typer.Option("--repair-folds", help="Remove folds, changing as little as possible.")
    ] = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Write a transform in another format.

    The suffix of the output names it: .h5 (exact composite), .nii.gz .nii .nrrd .mha (dense
    field), .tfm .txt .mat (affine), .dcm (a DICOM registration of the series -r and -m).

    carl convert forward.h5 -r fixed.nii.gz -o field.nii.gz
    """
    from carl_cli.cli.console import start
    from carl_cli.cli.outputs import check_outputs
    from carl_cli.workflows.transform import Storage
    from carl_cli.workflows.transform import convert as run

    start(verbose, quiet, log_file)
    check_outputs([output], overwrite)
    storage = Storage(
        reference,
        field_spacing,
        precision,
        1006 if intent == "1006" else 1007,
        target,
        moving,
        dicom_identity == "keep",
    )
    run(transform, output, storage, source, repair_folds)

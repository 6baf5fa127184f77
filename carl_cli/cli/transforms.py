"""`carl compose`, `average`, `invert`, `convert` and `jacobian`: files of transforms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from carl_cli.cli.options.grouping import grouped
from carl_cli.cli.options.shared import (
    Chain,
    LogArguments,
    Overwrite,
    TransformArguments,
    check_outputs,
)
from carl_cli.io.transforms import Program


@dataclass(frozen=True)
class ChainArguments:
    transforms: Annotated[list[str], Chain]


@grouped
def compose(chain: ChainArguments, written: TransformArguments, log: LogArguments) -> None:
    """Chain transforms into one.

    carl compose -t 1Warp.nii.gz -t 0GenericAffine.mat -o both.h5
    """
    from carl_cli.workflows.transform import compose as run

    log.start()
    run(chain.transforms, written.output, written.storage())


@dataclass(frozen=True)
class AverageArguments:
    transforms: Annotated[
        list[str], typer.Argument(metavar="T...", help="Transforms, or [T,1] for an inverse.")
    ]


@grouped
def average(what: AverageArguments, written: TransformArguments, log: LogArguments) -> None:
    """Average transforms.

    Affine transforms have a log-Euclidean mean, which is rigid if they all are. If any of them
    bends, the result is a field of the mean displacement, on the grid of the first one that bends
    or that of --reference.

    Examples:

        carl average a.mat b.mat '[c.mat,1]' -o mean.mat
        carl average a.h5 b.h5 -r template.nii.gz -o mean.nii.gz
    """
    from carl_cli.workflows.transform import average as run

    log.start()
    run(what.transforms, written.output, written.storage())


@dataclass(frozen=True)
class InvertArguments:
    transform: Annotated[str, typer.Argument(metavar="T", help="The transform to invert.")]


@grouped
def invert(what: InvertArguments, written: TransformArguments, log: LogArguments) -> None:
    """Invert a transform.

    Affine parts are inverted exactly, fields numerically. The error that the written inverse
    leaves, in mm, goes to stdout. Here --reference is the moving image: the inverse lives on
    its grid.

    carl invert forward.h5 -r moving.nii.gz -o inverse.nii.gz
    """
    from carl_cli.workflows.transform import invert as run

    log.start()
    residuals = run(what.transform, written.output, written.storage())
    for name, residual in residuals.items():
        where, ordered = name.replace(" ", "_"), sorted(residual)
        typer.echo(f"residual_mm_p99_{where} {ordered[int(0.99 * (len(ordered) - 1))]:.4g}")
        typer.echo(f"residual_mm_max_{where} {ordered[-1]:.4g}")


@dataclass(frozen=True)
class ConvertArguments:
    transform: Annotated[Path, typer.Argument(metavar="T", help="The transform to convert.")]
    source: Annotated[
        Program | None,
        typer.Option(
            "--from",
            help="Program whose conventions T follows: greedy and niftyreg (4x4 text; niftyreg's "
            "fields and control points), easyreg and spm (RAS positions), synthmorph (RAS "
            "displacements), lta, fsl (FLIRT and FNIRT, with -r and -m). Files of ITK, ANTs, "
            "Slicer, greedy's and SPM's fields need none.",
        ),
    ] = None
    target: Annotated[
        Program | None, typer.Option("--to", help="Program whose conventions the output follows.")
    ] = None
    moving: Annotated[
        Path | None,
        typer.Option("--moving", "-m", help="The moving image, which lta and fsl go with."),
    ] = None
    repair_folds: Annotated[
        bool, typer.Option("--repair-folds", help="Remove folds, changing as little as possible.")
    ] = False
    dicom_identity: Annotated[
        Literal["new", "keep"],
        typer.Option(
            "--dicom-identity",
            help="Of a DICOM registration (.dcm): new, without a patient, or keep that of -r.",
        ),
    ] = "new"


@grouped
def convert(what: ConvertArguments, written: TransformArguments, log: LogArguments) -> None:
    """Write a transform in another format.

    The suffix of the output names it: .h5 (exact composite), .nii.gz .nii .nrrd .mha (dense
    field), .tfm .txt .mat (affine), .dcm (a DICOM registration of the series -r and -m).

    carl convert forward.h5 -r fixed.nii.gz -o field.nii.gz
    """
    from carl_cli.workflows.transform import convert as run

    log.start()
    storage = written.storage(what.target, what.moving, what.dicom_identity == "keep")
    run(what.transform, written.output, storage, what.source, what.repair_folds)


@dataclass(frozen=True)
class JacobianArguments:
    transform: Annotated[str, typer.Argument(metavar="T", help="Transform, or [T,1].")]
    output: Annotated[Path, typer.Option("--output", "-o", help="The image to write.")]
    reference: Annotated[
        Path | None,
        typer.Option("--reference", "-r", help="The fixed image. Default: the field's own grid."),
    ] = None
    logarithm: Annotated[bool, typer.Option("--log", help="Write the natural logarithm.")] = False
    overwrite: Overwrite = False


@grouped
def jacobian(what: JacobianArguments, log: LogArguments) -> None:
    """Write the Jacobian determinant: 1 keeps the volume, 0 or less is a fold.

    A summary goes to stdout.

    carl jacobian forward.h5 -r fixed.nii.gz -o jacobian.nii.gz
    """
    from carl_cli.workflows.transform import write_jacobian

    log.start()
    check_outputs([what.output], what.overwrite)
    figures = write_jacobian(
        what.transform, what.output, what.reference, what.logarithm, what.overwrite
    )
    for name, value in figures.items():
        typer.echo(f"{name} {value:.6g}")

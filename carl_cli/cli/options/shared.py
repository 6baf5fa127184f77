"""Arguments that several commands share: logging, outputs, and how a transform is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carl_cli.errors import OutputError
from carl_cli.io.atomic import is_there

if TYPE_CHECKING:
    from carl_cli.io.transforms import Program
    from carl_cli.workflows.transform import Storage

LOGGING = "Logging and resources"

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more on stderr.", rich_help_panel=LOGGING)
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel=LOGGING),
]
LogFile = Annotated[
    Path | None,
    typer.Option("--log-file", help="Write the whole log here too.", rich_help_panel=LOGGING),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="Threads to compute with. Default: what Slurm, SGE or OMP_NUM_THREADS allot, "
        "else every core this process may use.",
        rich_help_panel=LOGGING,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist already.")]
Chain = typer.Option(
    "--transform",
    "-t",
    metavar="T | [T,1] | T,-1",
    help="Transform, or its inverse. May be repeated, in the order of antsApplyTransforms: "
    "points of the fixed image meet the first one first (-t warp -t affine). A prefix names the "
    "program whose conventions a file follows: greedy:affine.mat, fsl:warp.nii.gz.",
)


@dataclass(frozen=True)
class LogArguments:
    verbose: Verbose = False
    quiet: Quiet = False
    log_file: LogFile = None

    def start(self) -> None:
        from carl_cli.cli.console import start

        start(self.verbose, self.quiet, self.log_file)


@dataclass(frozen=True)
class TransformArguments:
    """The transform that a command writes."""

    output: Annotated[Path, typer.Option("--output", "-o", help="The transform to write.")]
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            "-r",
            help="Image whose grid a dense field gets. Without it .h5 keeps the exact parts, and "
            "other formats take the grid of the field that meets the points first.",
        ),
    ] = None
    field_spacing: Annotated[
        float | None,
        typer.Option(
            "--field-spacing",
            metavar="MM",
            help="Voxel size of a dense field, over the same field of view.",
        ),
    ] = None
    precision: Annotated[
        Literal["float", "double"],
        typer.Option("--precision", help="Precision of the numbers in the file."),
    ] = "float"
    intent: Annotated[
        Literal["1007", "1006"],
        typer.Option("--intent", help="NIfTI fields: 1007 holds LPS numbers (ANTs), 1006 RAS."),
    ] = "1007"
    overwrite: Overwrite = False

    def storage(
        self,
        program: Program | None = None,
        moving: Path | None = None,
        keep_identity: bool = False,
    ) -> Storage:
        """How it is to be written. Raises OutputError if it can't be."""
        from carl_cli.workflows.transform import Storage

        check_outputs([self.output], self.overwrite)
        intent: Literal[1006, 1007] = 1006 if self.intent == "1006" else 1007
        kind = (self.reference, self.field_spacing, self.precision, intent, program, moving)
        return Storage(*kind, self.overwrite, keep_identity)


@lru_cache(maxsize=1)
def warn_confidence() -> None:
    """Once in a run."""
    from carl_cli.cli.console import LOGGER

    LOGGER.warning("--confidence is now called --match-spread; the old name will go")


def check_outputs(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise OutputError unless every path can be written: its folder is there, nothing is lost."""
    for path in paths:
        there = is_there(path)
        if there and not (path.is_file() or path.is_dir()):
            raise OutputError(f"{path} is a pipe or a device", "name a file")
        if there and not overwrite:
            raise OutputError(f"{path} exists already", "replace it with --overwrite")
        folder = path.parent
        if not folder.is_dir():
            raise OutputError(f"the folder {folder} does not exist", f"mkdir -p {folder}")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"the folder {folder} can't be written to", "choose another folder")

"""Files of programs with conventions of their own, read and written only when named."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Literal

import numpy as np

from carl_cli.errors import UsageError
from carl_cli.geometry import Grid
from carl_cli.io.transforms import freesurfer, greedy
from carl_cli.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    dense,
    from_homogeneous,
)

Program = Literal["greedy", "easyreg", "synthmorph", "lta"]
READERS: dict[Program, Callable[[Path], Transform]] = {
    "greedy": greedy.read_greedy,
    "easyreg": freesurfer.read_easyreg,
    "synthmorph": freesurfer.read_synthmorph,
    "lta": freesurfer.read_lta,
}
FIELD_WRITERS: dict[Program, Callable[[Path, DisplacementField], None]] = {
    "easyreg": freesurfer.write_easyreg,
    "synthmorph": freesurfer.write_synthmorph,
}


def write_foreign(
    path: Path, transform: Transform, program: Program, fixed: Grid | None, moving: Grid | None
) -> None:
    """Raises UsageError when the program's file can't hold the transform or lacks a grid."""
    if program in FIELD_WRITERS:
        if fixed is None:
            raise UsageError(f"a field for {program} needs a grid", "name the fixed image (-r)")
        FIELD_WRITERS[program](path, dense(transform, fixed))
    elif program == "greedy":
        greedy.write_greedy(path, product(transform, "greedy's text file"))
    elif fixed is None or moving is None:
        raise UsageError("an LTA names both geometries", "give --reference and --moving")
    else:
        freesurfer.write_lta(path, product(transform, "an LTA"), fixed, moving)


def product(transform: Transform, holder: str) -> AffineTransform:
    """All parts multiplied; UsageError unless all are affine."""
    affines = [part for part in transform.parts if isinstance(part, AffineTransform)]
    if len(affines) < len(transform.parts):
        raise UsageError(f"{holder} holds only an affine transform", "use .h5 or .nii.gz")
    return from_homogeneous(reduce(np.matmul, [part.homogeneous for part in affines]))

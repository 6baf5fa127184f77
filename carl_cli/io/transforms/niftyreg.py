"""NiftyReg's transformations, all between RAS mm of the reference (fixed) and the floating image.

A NIfTI file named NREG_TRANS says in intent_p1 what its numbers are. Positions in a grid of control
points are absolute; cubic B-splines give back a linear map exactly, so that the positions minus
those of the control points themselves are coefficients of the displacement.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from carl_cli.errors import InputError
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images import nifti_header as nifti
from carl_cli.io.images.image import Image
from carl_cli.io.transforms.fields import positions_as_field, read_vectors, write_vectors
from carl_cli.io.transforms.matrices import read_ras_matrix
from carl_cli.transforms import BSplineTransform, DisplacementField, Transform

NAME = "NREG_TRANS"
POSITIONS, DISPLACEMENTS, CUBIC_SPLINE = 0, 1, 2
OTHERS = {
    3: "a velocity field",
    4: "a velocity field",
    5: "a grid of velocities",
    6: "a linear spline",
}
P1_OFFSET = {1: ("f", 56), 2: ("d", 80)}


def is_niftyreg(header: nifti.Header) -> bool:
    return nifti.intent_name(header).startswith(NAME)


def read_niftyreg(path: Path) -> Transform:
    """A field, a grid of control points, or an affine as a 4x4 text matrix."""
    if not full_suffix(path).lower().startswith(".nii"):
        return read_ras_matrix(path, "a NiftyReg affine")
    header = nifti.read_header(path)
    if not is_niftyreg(header):
        raise InputError(f"{path}: no transformation of NiftyReg: its intent is not {NAME}")
    code, offset = P1_OFFSET[header.version]
    (kind,) = struct.unpack_from(header.endian + code, header.raw, offset)
    if kind not in (POSITIONS, DISPLACEMENTS, CUBIC_SPLINE):
        raise InputError(
            f"{path}: {OTHERS.get(kind, 'an unknown kind')} of NiftyReg (intent_p1 {kind:g})",
            f"reg_transform -ref FIXED -def {path.name} field.nii.gz makes a field of it",
        )
    vectors = read_vectors(path)
    if kind == DISPLACEMENTS:
        return DisplacementField(vectors.grid, vectors.array.astype(np.float32))
    if kind == POSITIONS:
        return positions_as_field(vectors)
    return BSplineTransform(vectors.grid, vectors.array.astype(float) - vectors.grid.points_mm())


def write_niftyreg_field(path: Path, field: DisplacementField) -> None:
    """Positions (intent_p1 0), which every program of NiftyReg takes."""
    positions = (field.displacement_mm + field.grid.points_mm()).astype(np.float32)
    write_vectors(path, Image(positions, field.grid, 3), nifti.INTENT_VECTOR, NAME)

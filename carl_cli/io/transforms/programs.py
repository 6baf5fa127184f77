"""Files of programs with conventions of their own, read and written only when named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from carl_cli.errors import UsageError
from carl_cli.geometry import Grid
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images.files import read_grid
from carl_cli.io.images.mgh import SUFFIXES as MGH
from carl_cli.io.images.mif import SUFFIXES as MIF
from carl_cli.io.transforms import Program, freesurfer, fsl, matrices, mgz, minc, niftyreg
from carl_cli.io.transforms.fields import positions_as_field, raw_vectors, read_vectors
from carl_cli.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    dense,
    from_homogeneous,
)

READERS: dict[Program, Callable[[Path], Transform]] = {
    "greedy": lambda path: matrices.read_ras_matrix(
        path, "a greedy affine", "greedy's warp fields need no --from"
    ),
    "afni": lambda path: _read_afni(path),
    "minc": minc.read_minc,
    "mrtrix": lambda path: _read_mrtrix(path),
    "easyreg": lambda path: positions_as_field(read_vectors(path)),
    "spm": lambda path: positions_as_field(read_vectors(path)),
    "synthmorph": lambda path: _read_synthmorph(path),
    "lta": freesurfer.read_lta,
    "niftyreg": niftyreg.read_niftyreg,
}
NIFTI, TEXT = (".nii", ".nii.gz"), (".txt", ".mat")
MATRICES: dict[Program, tuple[str, ...]] = {"lta": (".lta",)}
MATRICES |= dict.fromkeys(("greedy", "niftyreg", "mrtrix", "fsl"), TEXT)
FIELDS: dict[Program, tuple[str, ...]] = {"synthmorph": (*NIFTI, *MGH), "mrtrix": (*NIFTI, *MIF)}
FIELDS |= dict.fromkeys(("easyreg", "spm", "niftyreg", "fsl"), NIFTI)
FIELD_WRITERS: dict[Program, Callable[[Path, DisplacementField], None]] = {
    "easyreg": freesurfer.write_easyreg,
    "mrtrix": freesurfer.write_easyreg,
    "spm": freesurfer.write_spm,
    "niftyreg": niftyreg.write_niftyreg_field,
}


@dataclass(frozen=True)
class Pair:
    """The images that a transform is of, as far as they are known: FSL's files need both."""

    fixed: Path | None = None
    moving: Path | None = None

    def grids(self, program: Program) -> tuple[Grid, Grid]:
        if self.fixed is None or self.moving is None:
            raise UsageError(
                f"a transform of {program} goes with its two images",
                f"carl convert --from {program} -r FIXED -m MOVING reads it",
            )
        return read_grid(self.fixed), read_grid(self.moving)


def _read_afni(path: Path) -> Transform:
    """A matrix, or a field of 3dQwarp: displacements in DICOM order (LPS) on the base's grid."""
    if ".nii" in path.name.lower():
        vectors, _ = raw_vectors(path)
        return DisplacementField(read_grid(path), vectors.astype(np.float32))
    return matrices.read_afni(path)


def _read_mrtrix(path: Path) -> Transform:
    """Both map the fixed image to the moving one: a 4x4 text, a warp of RAS positions."""
    if _is_image(path):
        return positions_as_field(read_vectors(path))
    return matrices.read_ras_matrix(path, "an MRtrix transform")


def _read_synthmorph(path: Path) -> Transform:
    if full_suffix(path).lower() in MGH:
        return mgz.read_mgz_displacements(path)
    return freesurfer.read_synthmorph(path)


def _is_image(path: Path) -> bool:
    return ".nii" in path.name.lower() or full_suffix(path).lower() in MIF


def read_foreign(path: Path, program: Program, pair: Pair) -> Transform:
    if program == "fsl":
        return fsl.read_fsl(path, *pair.grids(program))
    return READERS[program](path)


def write_foreign(
    path: Path, transform: Transform, program: Program, fixed: Grid | None, moving: Grid | None
) -> None:
    """path: as check_writable wants it. Raises UsageError when the program's file can't hold the
    transform or lacks a grid."""
    holds_field = full_suffix(path).lower() in FIELDS.get(program, ())
    write = _write_field if holds_field else _write_matrix
    write(path, transform, program, fixed, moving)


def check_writable(path: Path, program: Program) -> None:
    """Raises UsageError for a suffix that the program's files don't have."""
    known = (*MATRICES.get(program, ()), *FIELDS.get(program, ()))
    if not known:
        raise UsageError(f"no files of {program} are written", "write .h5 or .nii.gz")
    if full_suffix(path).lower() not in known:
        raise UsageError(f"{path}: no file of {program} has this suffix", f"use {' '.join(known)}")


def _write_field(
    path: Path, transform: Transform, program: Program, fixed: Grid | None, moving: Grid | None
) -> None:
    field = _sampled(transform, program, fixed)
    if program in FIELD_WRITERS:
        FIELD_WRITERS[program](path, field)
    elif program == "synthmorph" and full_suffix(path).lower() in NIFTI:
        freesurfer.write_synthmorph(path, field, moving)
    elif moving is None:
        raise UsageError(f"this file of {program} goes with both images", "give --moving")
    elif program == "synthmorph":
        mgz.write_mgz_field(path, field, moving)
    else:
        fsl.write_fsl_field(path, field, moving)


def _write_matrix(
    path: Path, transform: Transform, program: Program, fixed: Grid | None, moving: Grid | None
) -> None:
    affine = product(transform, f"{path.suffix} of {program}")
    if program not in ("lta", "fsl"):
        matrices.write_ras_matrix(path, affine)
    elif fixed is None or moving is None:
        raise UsageError(
            f"a transform for {program} goes with both images", "give --reference and --moving"
        )
    elif program == "lta":
        freesurfer.write_lta(path, affine, fixed, moving)
    else:
        fsl.write_flirt(path, affine, fixed, moving)


def _sampled(transform: Transform, program: Program, fixed: Grid | None) -> DisplacementField:
    if fixed is None:
        raise UsageError(f"a field for {program} needs a grid", "name the fixed image (-r)")
    return dense(transform, fixed)


def product(transform: Transform, holder: str) -> AffineTransform:
    """All parts multiplied; UsageError unless all are affine."""
    affines = [part for part in transform.parts if isinstance(part, AffineTransform)]
    if len(affines) < len(transform.parts):
        raise UsageError(f"{holder} holds only an affine transform", "use .h5 or .nii.gz")
    if len(affines) == 1:
        return affines[0]  # which may be known to be rigid
    return from_homogeneous(reduce(np.matmul, [part.homogeneous for part in affines]))

"""Transform files ↔ transforms. The suffix names the format.

.h5 (also .hdf5 on reading)   ITK composite: the exact parts, affine and field
.nii .nii.gz .nrrd .mha       dense displacement field
.tfm .txt .mat                affine only: ITK text and the Matlab file of ANTs; on reading also
                              elastix's parameter files (.txt)
.x5                           one affine or dense field, for nitransforms
.lta .xfm .mgz .dcm           read only here: FreeSurfer, MINC, DICOM registration objects
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.errors import InputError, OutputError, UsageError
from carl_cli.geometry import Grid
from carl_cli.io.atomic import atomic_path, full_suffix, sha256_of
from carl_cli.io.images.general import FARTHEST_MM, check_directions
from carl_cli.io.images.mgh import SUFFIXES as MGH
from carl_cli.io.sitk_bridge import cause, overheard
from carl_cli.io.transforms import Program, hdf5, split_program
from carl_cli.io.transforms import fields as dense_files
from carl_cli.io.transforms.dicom_registration import read_registration
from carl_cli.io.transforms.elastix import is_elastix, read_elastix
from carl_cli.io.transforms.freesurfer import read_lta
from carl_cli.io.transforms.hdf5 import Precision
from carl_cli.io.transforms.mgz import read_mgz_field
from carl_cli.io.transforms.minc import read_minc
from carl_cli.io.transforms.programs import (
    Pair,
    check_writable,
    product,
    read_foreign,
    write_foreign,
)
from carl_cli.io.transforms.recognise import recognised
from carl_cli.io.transforms.sitk import (
    covering,
    from_sitk_transform,
    inverse_grid,
    leaves,
    to_sitk_transform,
)
from carl_cli.io.transforms.text import check_stated, is_well_formed
from carl_cli.io.transforms.x5 import read_x5, write_x5
from carl_cli.io.trial import try_out
from carl_cli.transforms import (
    AffineTransform,
    BSplineTransform,
    Deformation,
    DisplacementField,
    InverseField,
    Transform,
    dense,
)

__all__ = ["from_sitk_transform", "read_transform", "to_sitk_transform", "write_transform"]

COMPOSITE = (".h5", ".hdf5")
AFFINE = (".tfm", ".txt", ".mat")
TRIAL_X5 = (
    "from carl_cli.io import trial; from carl_cli.io.transforms import x5; "
    "trial.limited(x5.read_x5)"
)
TRIAL_SERIES = (
    "from carl_cli.io import trial; from carl_cli.io.transforms import hdf5; "
    "trial.limited(hdf5.is_series)"
)
TRIAL = (
    "from carl_cli.io import trial; from carl_cli.io.transforms import files; "
    "trial.limited(files.read_by_itk)"
)


def read_transform(
    path: str | Path, program: Program | None = None, pair: Pair | None = None
) -> Transform:
    """The map of fixed points to moving points that a file holds, LPS mm.

    Reads what ITK, ANTs, SimpleITK, Slicer and this program write. Files in the conventions of
    other programs are never guessed: `program`, or a prefix (`greedy:affine.mat`), names them.
    pair: the images that FSL's files go with. Raises InputError, UsageError.
    """
    if program is None:
        program, path = split_program(str(path))
    path = Path(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {what}", "check the name of the transform")
    try:
        if program is not None:
            transform = read_foreign(path, program, pair or Pair())
        else:
            transform = READERS.get(full_suffix(path).lower(), _unknown_suffix)(path)
        _check_sane(transform, path)
    except InputError as error:
        if str(path) in error.message:
            raise
        raise InputError(f"{path}: {error.message}", error.hint) from error
    return transform


def read_written(path: Path, sha256: str) -> Transform:
    """The transform of an .h5 that this program wrote, by the hash in its record: such bytes are
    sound, and need no trial in a process of its own. Raises InputError for any others."""
    if not path.is_file() or sha256_of(path) != sha256:
        raise InputError(f"{path} is not the file that was written", "do the registration again")
    return from_sitk_transform(sitk.ReadTransform(str(path)))


def read_series(path: str | Path, pair: Pair | None = None) -> list[Transform]:
    """The transforms of a file that holds one for each volume of a series (`write_series`); of any
    other file the one that `read_transform` finds."""
    program, name = split_program(str(path))
    plain = Path(name)
    if program or full_suffix(plain).lower() not in COMPOSITE or not plain.is_file():
        return [read_transform(path, pair=pair)]
    try_out(plain, TRIAL_SERIES)
    if not hdf5.is_series(plain):
        return [read_transform(plain, pair=pair)]
    found = hdf5.read_series(plain)
    for transform in found:
        _check_sane(transform, plain)
    return found


def write_series(path: Path, transforms: Sequence[Transform], *, replace: bool = True) -> None:
    """One transform for each volume of a series, as .h5, whole or not at all: affines as they are,
    others as fields on their own grids, single precision. Raises UsageError, OutputError."""
    if full_suffix(path).lower() != ".h5":
        raise UsageError(f"{path}: a series of transforms is written as .h5", "use .h5")
    parts = [_one_part(transform, None) for transform in transforms]
    _write(path, replace, lambda temporary: hdf5.write_series(temporary, parts, "float"))


def _read_x5(path: Path) -> Transform:
    try_out(path, TRIAL_X5)
    return read_x5(path)


def _read_itk(path: Path) -> Transform:
    affine = full_suffix(path).lower() in AFFINE
    if affine and is_elastix(path.read_bytes()):
        return read_elastix(path)
    if not (affine and is_well_formed(path)):
        try_out(path, TRIAL)
    if not affine and hdf5.is_series(path):  # ITK would take the first one in silence
        raise InputError(
            f"{path}: a transform for each volume of a series, one transform was expected",
            "carl warp -t applies them all to a series",
        )
    try:
        read, _ = overheard(lambda: read_by_itk(path))
    except (RuntimeError, UnicodeDecodeError) as error:
        if known := recognised(path):
            raise InputError(f"{path}: {known[0]}, which is not read as it is", known[1]) from None
        unknown = "Transform IO" in str(error)
        reason = "its format is unknown or damaged" if unknown else cause(error)
        raise InputError(f"{path}: not a readable transform: {reason}") from None
    if affine:
        check_stated(path, list(leaves(read)))
    return from_sitk_transform(read)


def read_by_itk(path: Path) -> sitk.Transform:
    """What ITK makes of the file; may crash or run without end (io-internal)."""
    if full_suffix(path).lower() in COMPOSITE:
        hdf5.check_whole(path)
    return sitk.ReadTransform(str(path))


def _check_sane(transform: Transform, path: Path) -> None:
    """Numbers that lead somewhere, and fields on a grid that can exist."""
    for part in transform.parts:
        if isinstance(part, Deformation):
            check_directions(part.sampling_grid, path)
        farthest = np.max([np.abs(numbers).max() for numbers in _numbers(part)], initial=0.0)
        if not farthest < FARTHEST_MM:  # nan is not, either
            found = f"a number of {farthest:g}, less than {FARTHEST_MM:g} expected"
            raise InputError(f"{path}: {found}")


def _numbers(part: Transform) -> Iterator[NDArray[Any]]:
    if isinstance(part, AffineTransform):
        yield from (part.matrix, part.translation)
    if isinstance(part, DisplacementField):
        yield part.displacement_mm
    if isinstance(part, BSplineTransform):
        yield part.coefficients_mm


def _unknown_suffix(path: Path) -> Transform:
    if known := recognised(path):
        raise InputError(f"{path}: {known[0]}, which is not read as it is", known[1])
    raise InputError(f"{path}: no transform has this suffix", f"readable are {' '.join(READERS)}")


READERS: dict[str, Callable[[Path], Transform]] = {
    **dict.fromkeys(COMPOSITE + AFFINE, _read_itk),
    ".lta": read_lta,
    ".xfm": read_minc,
    ".dcm": read_registration,
    ".x5": _read_x5,
    **dict.fromkeys(MGH, read_mgz_field),
    **dict.fromkeys(dense_files.READABLE, dense_files.read_field),
}


def write_transform(
    path: str | Path,
    transform: Transform,
    *,
    precision: Precision = "float",
    field_grid: Grid | None = None,
    intent: Literal[1007, 1006] = 1007,
    program: Program | None = None,
    moving_grid: Grid | None = None,
    replace: bool = True,
) -> None:
    """Write by suffix, or as `program` would, whole or not at all.

    field_grid: where a dense field is sampled; by default the grid of the field that acts
    first. precision: of the numbers in .h5 and dense files (.tfm, .txt, .mat are double).
    intent: of NIfTI fields; 1007 holds LPS numbers, 1006 RAS ones. moving_grid: for LTAs.
    replace: whether a file may stand there already.
    Raises UsageError when the format can't hold the transform, OutputError.
    """
    path = Path(path)
    suffix = full_suffix(path).lower()
    if program is not None:
        check_writable(path, program)
        _write(
            path,
            replace,
            lambda part: write_foreign(part, transform, program, field_grid, moving_grid),
        )
    elif suffix in AFFINE:
        _write(path, replace, lambda temporary: _write_affine(temporary, transform))
    elif suffix == ".h5":
        parts = covering(dense(transform, field_grid) if field_grid else transform, None)
        _write(path, replace, lambda temporary: hdf5.write(temporary, parts, precision))
    elif suffix == ".x5":
        held = _one_part(transform, field_grid)
        _write(path, replace, lambda temporary: write_x5(temporary, held))
    elif suffix in dense_files.WRITABLE:
        field = dense(transform, field_grid or natural_grid(transform))
        dtype = np.float32 if precision == "float" else np.float64
        nifti_ras = suffix.startswith(".nii") and intent == 1006
        save = dense_files.write_ras_field if nifti_ras else dense_files.write_field
        _write(path, replace, lambda temporary: save(temporary, field, dtype))
    else:
        names = " ".join((".h5", ".x5", *dense_files.WRITABLE, *AFFINE))
        raise UsageError(f"{path}: no transform can be written with this suffix", f"use {names}")


def _one_part(transform: Transform, grid: Grid | None) -> AffineTransform | DisplacementField:
    """An affine if it is one, else a field on the grid or on its own."""
    if all(isinstance(part, AffineTransform) for part in transform.parts):
        return product(transform, "an affine")
    return dense(transform, grid or natural_grid(transform))


def _write(path: Path, replace: bool, save: Callable[[Path], None]) -> None:
    with atomic_path(path, replace=replace) as temporary:
        try:
            save(temporary)
        except RuntimeError as error:
            reason = cause(error).replace(str(temporary), path.name).rstrip(": ")
            raise OutputError(f"{path}: can't be written: {reason}") from None


def natural_grid(transform: Transform) -> Grid:
    """The grid of the field that meets the points first, or of what an inverse field reaches."""
    first = transform.parts[-1]
    if isinstance(first, Deformation):
        return first.sampling_grid
    if isinstance(first, InverseField):
        return inverse_grid(first)
    raise UsageError(
        "this transform has no grid of its own to sample a dense field on",
        "name the fixed image (--reference), or write it as .h5",
    )


def _write_affine(path: Path, transform: Transform) -> None:
    """ITK's writer says nothing of a disk that is full: what it wrote is read again."""
    affine = to_sitk_transform(product(transform, f"a {path.suffix} file"))
    sitk.WriteTransform(affine, str(path))
    try:
        found = sitk.ReadTransform(str(path)).GetParameters()
    except RuntimeError:
        found = ()
    if found != affine.GetParameters():
        raise RuntimeError("only a part of it was written")

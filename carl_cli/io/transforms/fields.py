"""Dense displacement fields as images: NIfTI, NRRD, MetaImage."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike

from carl_cli.errors import InputError
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images import nifti_header as nifti
from carl_cli.io.images.files import read_any
from carl_cli.io.images.general import IMAGE_IOS
from carl_cli.io.ras import flip_vectors
from carl_cli.io.sitk_bridge import read_header
from carl_cli.io.transforms.sitk import field_to_sitk
from carl_cli.transforms import DisplacementField

READABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")


def read_field(path: Path) -> DisplacementField:
    """Displacements in mm: LPS, or RAS where the NIfTI intent is 1006 (flipped on reading).

    Raises InputError when the file does not declare itself a field of vectors.
    """
    if ".nii" in path.name.lower():
        _check_nifti(path)
    image = read_any(path)
    if image.channels != image.grid.dimension or image.channel_kind != "vector":
        raise InputError(
            f"{path}: {image.channels} component(s) per voxel in {image.grid.dimension}D, "
            "a displacement field was expected",
            "fields of other programs need their name: carl convert --from easyreg|synthmorph",
        )
    return DisplacementField(image.grid, image.array.astype(np.float32, copy=False))


def is_field(path: Path) -> bool:
    """Whether an image file declares vectors of its own dimension, which can only be a field."""
    suffix = full_suffix(path).lower()
    if suffix.startswith(".nii"):
        return nifti.read_header(path).intent in (nifti.INTENT_VECTOR, nifti.INTENT_DISPLACEMENT)
    if suffix not in READABLE:
        return False
    reader = read_header(path, IMAGE_IOS[suffix], path)
    real = reader.GetPixelID() in (sitk.sitkVectorFloat32, sitk.sitkVectorFloat64)
    return bool(real and reader.GetNumberOfComponents() == reader.GetDimension())


def _check_nifti(path: Path) -> None:
    header = nifti.read_header(path)
    if nifti.intent_name(header).startswith("NREG_TRANS"):
        raise InputError(
            f"{path}: a NiftyReg transformation, not an ITK displacement field",
            "make a displacement field of it with reg_transform -disp",
        )
    if header.intent not in (nifti.INTENT_VECTOR, nifti.INTENT_DISPLACEMENT):
        raise InputError(
            f"{path}: NIfTI intent {header.intent}, a field has 1007 (LPS) or 1006 (RAS)",
            "name the program that wrote it: carl convert --from easyreg|synthmorph",
        )


def write_field(path: Path, field: DisplacementField, dtype: DTypeLike) -> None:
    """Numbers on disk in mm LPS; in NIfTI dim = [5, x, y, z, 1, 3], intent 1007."""
    sitk.WriteImage(field_to_sitk(field, dtype), str(path), useCompression=True)


def write_ras_field(path: Path, field: DisplacementField, dtype: DTypeLike) -> None:
    """NIfTI with intent 1006, numbers on disk in RAS. SimpleITK can't declare that intent."""
    if field.dimension != 3:
        raise InputError(f"{path}: intent 1006 is for 3D fields, this one is 2D")
    flipped = DisplacementField(field.grid, flip_vectors(field.displacement_mm))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "field.nii"
        sitk.WriteImage(field_to_sitk(flipped, dtype), str(plain))
        nifti.set_intent(plain, path, nifti.INTENT_DISPLACEMENT)

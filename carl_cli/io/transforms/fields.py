"""Dense displacement fields as images: NIfTI, NRRD, MetaImage."""

from __future__ import annotations

import gzip
import shutil
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images import nifti_header as nifti
from carl_cli.io.images.files import read_any
from carl_cli.io.images.general import IMAGE_IOS
from carl_cli.io.images.image import Image, to_sitk
from carl_cli.io.images.mgh import SUFFIXES as MGH
from carl_cli.io.images.mgh import is_warp
from carl_cli.io.images.mif import SUFFIXES as MIF
from carl_cli.io.images.nifti import read_numbers
from carl_cli.io.images.text_headers import TEXT_HEADERS, check_numbers, read_text_header
from carl_cli.io.ras import flip_vectors
from carl_cli.io.sitk_bridge import read_header, save
from carl_cli.io.transforms.sitk import field_to_sitk
from carl_cli.transforms import DisplacementField

READABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")
SPM_NAME = "Mapping"
FSL_INTENTS = range(2006, 2019)
BLOCK = 1 << 24
VOXELS_OFFSET = 108  # where a NIfTI-1 header says where they begin


def read_field(path: Path) -> DisplacementField:
    """Displacements in mm: LPS, or RAS where the NIfTI intent is 1006 (flipped on reading).

    SPM's deformations (`y_*.nii`) say by their intent's name that they are positions. Raises
    InputError when the file does not declare itself a field of vectors.
    """
    if ".nii" in path.name.lower():
        if is_spm(nifti.read_header(path)):
            return positions_as_field(read_vectors(path))
        _check_nifti(path)
    image = read_any(path)
    if image.channels == 1:
        raise InputError(f"{path}: this is an image, not a transform", "name the transform's file")
    if image.channels != image.grid.dimension or image.channel_kind != "vector":
        raise InputError(
            f"{path}: {image.channels} component(s) per voxel in {image.grid.dimension}D, "
            "a displacement field was expected",
            "fields of other programs need their name: carl convert --from easyreg|synthmorph",
        )
    return DisplacementField(image.grid, image.array.astype(np.float32, copy=False))


def is_spm(header: nifti.Header) -> bool:
    return header.intent == nifti.INTENT_VECTOR and nifti.intent_name(header) == SPM_NAME


def read_vectors(path: Path) -> Image:
    """(z, y, x, 3) RAS vectors or positions of NIfTI, MGH or MIF as LPS ones, float64."""
    is_nifti = ".nii" in path.name.lower()
    if not is_nifti and full_suffix(path).lower() not in (*MGH, *MIF):
        raise InputError(f"{path}: a field was expected", f"give .nii.gz, {', '.join(MGH + MIF)}")
    if is_nifti and nifti.read_header(path).intent == nifti.INTENT_DISPLACEMENT:
        raise InputError(f"{path} declares itself a displacement field", "it needs no --from")
    image = read_any(path)
    if image.channels != 3 or image.grid.dimension != 3:
        raise InputError(f"{path}: {image.channels} volumes, a field has 3 (x, y, z)")
    return replace(image, array=flip_vectors(image.array.astype(np.float64)))


def positions_as_field(positions: Image) -> DisplacementField:
    """LPS positions in the moving image, one at each voxel of the fixed grid."""
    displacement = positions.array.astype(float) - positions.grid.points_mm()
    return DisplacementField(positions.grid, displacement.astype(np.float32))


def is_field(path: Path) -> bool:
    """Whether an image file declares vectors of its own dimension, which can only be a field."""
    suffix = full_suffix(path).lower()
    if suffix.startswith(".nii"):
        intent = nifti.read_header(path).intent
        return intent in (nifti.INTENT_VECTOR, nifti.INTENT_DISPLACEMENT, *FSL_INTENTS)
    if suffix not in READABLE:
        return suffix in MGH and is_warp(path)
    if suffix in TEXT_HEADERS:
        check_numbers(read_text_header(path))
    reader = read_header(path, IMAGE_IOS[suffix], path)
    real = reader.GetPixelID() in (sitk.sitkVectorFloat32, sitk.sitkVectorFloat64)
    return bool(real and reader.GetNumberOfComponents() == reader.GetDimension())


def _check_nifti(path: Path) -> None:
    header = nifti.read_header(path)
    if nifti.intent_name(header).startswith("NREG_TRANS"):
        raise InputError(
            f"{path}: a NiftyReg transformation, not an ITK displacement field",
            f"say so: -t niftyreg:{path.name}, or carl convert --from niftyreg",
        )
    if header.intent in FSL_INTENTS:
        raise InputError(
            f"{path}: a warp of FSL (NIfTI intent {header.intent}), which goes with two images",
            f"carl convert --from fsl -r FIXED -m MOVING {path.name} -o T.nii.gz",
        )
    if header.intent not in (nifti.INTENT_VECTOR, nifti.INTENT_DISPLACEMENT):
        if len(header.shape) == 3:
            raise InputError(
                f"{path}: this is an image, not a transform", "name the transform's file"
            )
        raise InputError(
            f"{path}: NIfTI intent {header.intent}, a field has 1007 (LPS) or 1006 (RAS)",
            "name the program that wrote it: carl convert --from easyreg|synthmorph|fsl|spm",
        )


def write_field(path: Path, field: DisplacementField, dtype: DTypeLike) -> None:
    """Numbers on disk in mm LPS; in NIfTI dim = [5, x, y, z, 1, 3], intent 1007."""
    save(field_to_sitk(field, dtype), path, compress=True)


def write_ras_field(path: Path, field: DisplacementField, dtype: DTypeLike) -> None:
    """NIfTI with intent 1006, numbers on disk in RAS. SimpleITK can't declare that intent."""
    if field.dimension != 3:
        raise InputError(f"{path}: intent 1006 is for 3D fields, this one is 2D")
    values = field.displacement_mm.astype(dtype, copy=False)
    write_vectors(path, Image(values, field.grid, 3), nifti.INTENT_DISPLACEMENT)


class Extension(NamedTuple):
    """Of a NIfTI header: whose it is, and what it holds."""

    code: int
    content: bytes


def write_vectors(
    path: Path,
    image: Image,
    intent: int,
    name: str = "",
    raw: bool = False,
    extension: Extension | None = None,
) -> None:
    """A NIfTI field, dim = [5, x, y, z, 1, 3] ([4, x, y, z, 3] of an image in time).

    LPS vectors become RAS ones, raw numbers stay.
    """
    held = image if raw else replace(image, array=flip_vectors(image.array))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "field.nii"
        save(to_sitk(held), plain)
        _declare(plain, path, intent, name, extension)


def _declare(
    source: Path, target: Path, intent: int, name: str, extension: Extension | None
) -> None:
    """Copy an uncompressed NIfTI-1 file with another intent; a `.gz` target compresses."""
    packed = target.name.lower().endswith(".gz")
    with (
        source.open("rb") as reader,
        gzip.open(target, "wb", 6) if packed else target.open("wb") as writer,
    ):
        header = bytearray(reader.read(nifti.NIFTI1_HEADER + 4))
        struct.pack_into("<h", header, nifti.INTENT_OFFSET, intent)
        struct.pack_into("16s", header, nifti.NAME_OFFSET[1], name.encode())
        if extension is not None:
            header += _extension(extension)
            header[nifti.NIFTI1_HEADER] = 1
            struct.pack_into("<f", header, VOXELS_OFFSET, len(header))
        writer.write(header)
        shutil.copyfileobj(reader, writer, BLOCK)


def _extension(extension: Extension) -> bytes:
    """Its size and code before it, its length a multiple of 16."""
    size = 16 * -(-(8 + len(extension.content)) // 16)
    return struct.pack("<2i", size, extension.code) + extension.content.ljust(size - 8, b"\0")


def raw_vectors(path: Path) -> tuple[Array, nifti.Header]:
    """(z, y, x, 3) numbers as they stand in a NIfTI file, wherever its header places them."""
    numbers, header = read_numbers(path)
    if len(header.shape) not in (4, 5) or header.shape[3:] not in ((3,), (1, 3)):
        raise InputError(f"{path}: {header.shape} numbers, a warp has 3 a voxel")
    array = numbers.reshape(3, *header.shape[2::-1]).astype(float)
    return np.moveaxis(array, 0, -1), header

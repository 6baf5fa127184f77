"""An image as a new DICOM series: own UIDs, no patient, nothing copied but the frame of reference.

Derived CT or MR slices that any viewer lays over the fixed series. GDCM writes them.
"""

from __future__ import annotations

import locale
import logging
import os
import secrets
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.errors import InputError, OutputError
from carl_cli.io.images.image import Image, to_sitk
from carl_cli.io.sitk_bridge import cause

log = logging.getLogger(__name__)

AIR_HU = -500
STORED = np.iinfo(np.int16)
FINE_ENOUGH = 1000
# Elements that the CT and MR modules require to exist, with the values for "derived by software".
COMMON = {
    "0008|0008": "DERIVED\\SECONDARY",
    "0008|0070": "",
    "0020|0010": "1",
    "0020|0011": "1",
    "0020|0012": "1",
    "0020|1040": "",
}
BY_MODALITY = {
    "CT": {"0018|0060": ""},
    "MR": {
        "0018|0020": "RM",
        "0018|0021": "NONE",
        "0018|0022": "",
        "0018|0023": "3D",
        "0018|0080": "",
        "0018|0081": "",
        "0018|0091": "",
    },
}


def write_dicom_series(folder: Path, image: Image, frame_uid: str = "") -> None:
    """Write a scalar 3D image as slices 0001.dcm … into a new folder, whole or not at all.

    frame_uid: frame of reference of the fixed series, if it is DICOM. Modality CT where values
    reach air in Hounsfield units, else MR. Stored as int16; an image of small real numbers is
    multiplied by a power of ten, and a warning says by which. Raises OutputError, InputError.
    """
    if image.grid.dimension != 3 or image.channels > 1:
        raise InputError(f"{image.source}: only a scalar 3D image can be written as DICOM")
    check_new_folder(folder)
    temporary = folder.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        temporary.mkdir()
        with _locale_kept():
            _write_slices(temporary, _stored(image), frame_uid or new_uid())
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else cause(error)
        raise OutputError(f"{folder}: can't be written: {why}", "choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Raise OutputError unless the folder is absent or empty and its parent is there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not an empty folder", "name a new one for the DICOM series")
    if not folder.parent.is_dir():
        raise OutputError(f"{folder}: the folder {folder.parent} does not exist", "create it first")


def new_uid() -> str:
    """A UID under 2.25, the root for random ones (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


@contextmanager
def _locale_kept() -> Iterator[None]:
    """GDCM leaves the process in the C locale, where Python reads text files as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _write_slices(folder: Path, image: Image, frame_uid: str) -> None:
    modality = "CT" if image.array.min() <= AIR_HU else "MR"
    series = {
        **COMMON,
        **BY_MODALITY[modality],
        "0008|0060": modality,
        "0018|0050": f"{image.grid.spacing_mm[2]:.10g}",
        "0018|0088": f"{image.grid.spacing_mm[2]:.10g}",
        "0020|000d": new_uid(),
        "0020|000e": new_uid(),
        "0020|0037": _decimals(image.grid.direction_matrix[:, :2].T),
        "0020|0052": frame_uid,
    }
    whole = to_sitk(image)
    for k in range(image.grid.size_xyz[2]):
        position = image.grid.index_to_lps @ [0, 0, k, 1]
        own = {
            "0008|0018": new_uid(),
            "0020|0013": str(k + 1),
            "0020|0032": _decimals(position[:3]),
        }
        _write_slice(folder / f"{k + 1:04}.dcm", whole[:, :, k : k + 1], series | own)


def _write_slice(path: Path, plane: sitk.Image, elements: dict[str, str]) -> None:
    for tag, value in elements.items():
        plane.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(plane)


def _decimals(numbers: NDArray[np.float64]) -> str:
    """A DICOM decimal string has 16 characters at most."""
    return "\\".join(f"{number:.9g}" for number in np.ravel(numbers))


def _stored(image: Image) -> Image:
    """int16 voxels: rounded, or first multiplied where rounding would flatten the image."""
    values = image.array.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{image.source}: NaN or infinite voxels can't be written as DICOM")
    largest = float(np.abs(values).max())
    rounded = np.rint(values)
    factor = 1.0
    if largest > STORED.max or (largest < FINE_ENOUGH and not np.array_equal(rounded, values)):
        factor = 10.0 ** np.floor(np.log10(STORED.max / largest))
        log.warning("DICOM: the values were multiplied by %g to be stored in 16 bits", factor)
    return Image(np.rint(values * factor).astype(np.int16), image.grid, source=image.source)

"""An image as a new DICOM series of slices, written by pydicom.

Any viewer lays it over the fixed series. Nothing is copied from the series that was warped but its
modality and the patient's position, and, where asked for, the patient and the study.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from carl_cli import __version__
from carl_cli.errors import InputError, OutputError
from carl_cli.io.images.image import Image

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger(__name__)

STORED = np.iinfo(np.int16)
FINE_ENOUGH = 1000
CT, MR, SECONDARY_CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "7"))
# What the modules of an image require, with the values for "derived by software".
BY_CLASS: dict[str, dict[str, Any]] = {
    CT: {
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
        "KVP": None,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "HU",
    },
    MR: {
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "3D",
        "RepetitionTime": None,
        "EchoTime": None,
        "EchoTrainLength": None,
    },
    SECONDARY_CAPTURE: {
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "ConversionType": "WSD",
        "PatientOrientation": "",
    },
}
NO_IDENTITY = dict.fromkeys(
    (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
        "AccessionNumber", "ReferringPhysicianName", "StudyID",
    ),
    "",
)  # fmt: skip
IDENTITY = (
    *NO_IDENTITY, "SpecificCharacterSet", "IssuerOfPatientID", "StudyInstanceUID",
    "StudyDescription",
)  # fmt: skip


def check_volume(image: Image) -> None:
    """Raise InputError for what slices can't hold."""
    if image.grid.dimension != 3 or image.channels > 1:
        raise InputError(f"{image.source}: only a scalar 3D image can be written as DICOM")
    if not np.isfinite(image.array).all():
        raise InputError(
            f"{image.source}: NaN or infinite voxels can't be written as DICOM",
            "replace them by the background value first, or leave out --dicom-out",
        )


def write_dicom_series(
    folder: Path,
    image: Image,
    frame_uid: str = "",
    source: Dataset | None = None,
    keep_identity: bool = False,
) -> None:
    """Write a scalar 3D image as slices 0001.dcm … into a new folder, whole or not at all.

    frame_uid: frame of reference of the fixed series, if it is DICOM. source: header of the series
    that was warped, whose modality and, with keep_identity, patient and study the new series has;
    without one the modality is OT (other). Stored as int16; an image of small real numbers is
    multiplied by a power of ten, and a warning says by which. Raises OutputError, InputError.
    """
    check_volume(image)
    check_new_folder(folder)
    series = _series(image, frame_uid or new_uid(), source, keep_identity)
    temporary = folder.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        temporary.mkdir()
        _write_slices(temporary, _stored(image), series)
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        why = error.strerror or error
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


def _series(image: Image, frame_uid: str, source: Dataset | None, keep: bool) -> Dataset:
    """What all slices have in common."""
    from pydicom import Dataset

    given = source or Dataset()
    series = Dataset()
    series.Modality = modality = _word(given, "Modality") or "OT"
    series.SOPClassUID = {"CT": CT, "MR": MR}.get(modality, SECONDARY_CAPTURE)
    kept = {name: given[name].value for name in IDENTITY if name in given} if keep else {}
    common = {
        "StudyInstanceUID": new_uid(),
        **NO_IDENTITY,
        **kept,
        **BY_CLASS[series.SOPClassUID],
        "SeriesInstanceUID": new_uid(),
        "SeriesNumber": 1,
        "SeriesDescription": "warped",
        "AcquisitionNumber": 1,
        "PatientPosition": _word(given, "PatientPosition"),
        "Manufacturer": "",
        "SoftwareVersions": f"carl {__version__}",
        "FrameOfReferenceUID": frame_uid,
        "PositionReferenceIndicator": "",
        "Laterality": "",
    }
    for name, value in (common | _geometry(image)).items():
        setattr(series, name, value)
    return series


def _word(source: Dataset, name: str) -> str:
    """A code of a few capitals; what else stands there may be text about the patient."""
    value = str(source.get(name, ""))
    return value if re.fullmatch("[A-Z]{2,4}", value) else ""


def _geometry(image: Image) -> dict[str, Any]:
    columns, rows, _ = image.grid.size_xyz
    x_mm, y_mm, z_mm = image.grid.spacing_mm
    return {
        "SliceThickness": _decimals([z_mm]),
        "SpacingBetweenSlices": _decimals([z_mm]),
        "PixelSpacing": _decimals([y_mm, x_mm]),
        "ImageOrientationPatient": _decimals(image.grid.direction_matrix[:, :2].T),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
    }


def _write_slices(folder: Path, image: Image, series: Dataset) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    for k, plane in enumerate(image.array, 1):
        series.SOPInstanceUID = new_uid()
        series.InstanceNumber = k
        position = image.grid.index_to_lps @ [0, 0, k - 1, 1]
        series.ImagePositionPatient = _decimals(position[:3])
        series.PixelData = plane.astype("<i2").tobytes()
        series.file_meta = FileMetaDataset()
        series.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        series.save_as(folder / f"{k:04}.dcm", enforce_file_format=True)


def _decimals(numbers: list[float] | NDArray[np.float64]) -> list[str]:
    """A DICOM decimal string has 16 characters at most."""
    return [f"{number:.9g}" for number in np.ravel(numbers)]


def _stored(image: Image) -> Image:
    """int16 voxels: rounded, or first multiplied where rounding would flatten the image."""
    values = image.array.astype(np.float64)
    largest = float(np.abs(values).max())
    rounded = np.rint(values)
    factor = 1.0
    if largest > STORED.max or (largest < FINE_ENOUGH and not np.array_equal(rounded, values)):
        factor = 10.0 ** np.floor(np.log10(STORED.max / largest))
        log.warning("DICOM: the values were multiplied by %g to be stored in 16 bits", factor)
    return Image(np.rint(values * factor).astype(np.int16), image.grid, source=image.source)

"""DICOM's Spatial Registration and Deformable Spatial Registration objects (PS3.3 C.20.2, C.20.3).

A matrix leads from an item's frame of reference to the object's own (the fixed image's); what
resamples, fixed to moving, is its inverse. A deformable object leads the other way, x → Post (Pre x
+ D(x)), with D on a grid in the fixed frame. All of it is LPS mm.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carl_cli import __version__
from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Array, Grid
from carl_cli.io.images.dicom import frame_of_reference, source_header
from carl_cli.io.images.dicom_header import check_inflation
from carl_cli.io.images.dicom_write import IDENTITY, NO_IDENTITY, new_uid
from carl_cli.io.transforms.programs import product
from carl_cli.io.transforms.sitk import covering
from carl_cli.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    dense,
    from_homogeneous,
)

if TYPE_CHECKING:
    from pydicom import Dataset

RIGID, DEFORMABLE = "1.2.840.10008.5.1.4.1.1.66.1", "1.2.840.10008.5.1.4.1.1.66.3"
ORTHONORMAL = 1e-6


def is_registration(path: Path) -> bool:
    """Whether a file is one of both objects."""
    import pydicom

    if path.suffix.lower() != ".dcm" or not path.is_file():
        return False
    try:
        check_inflation(path)
        data = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    except Exception:  # whatever is wrong with it, the reader of images will say so
        return False
    return data.get("SOPClassUID") in (RIGID, DEFORMABLE)


def read_registration(path: Path) -> Transform:
    """Fixed to moving. Raises InputError for objects of other kinds or of several moving frames."""
    import pydicom

    try:
        data = pydicom.dcmread(path, force=True)
        kind = str(data.get("SOPClassUID", ""))
        if kind == RIGID:
            return _from_matrices(data)
        if kind == DEFORMABLE:
            return _from_grid(data)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None
    except OSError:
        raise
    except Exception as error:
        why = type(error).__name__
        raise InputError(f"{path}: a damaged DICOM object ({why})", "get it again") from None
    raise InputError(f"{path}: no registration object of DICOM", "images belong elsewhere")


def _from_matrices(data: Dataset) -> Transform:
    """Items of the object's own frame place the fixed image, the one other item the moving one."""
    to_own, others = np.eye(4), []
    for item in data.RegistrationSequence:
        (registration,) = item.MatrixRegistrationSequence
        matrix = np.eye(4)
        for step in registration.MatrixSequence:
            matrix = _matrix(step) @ matrix
        if item.get("FrameOfReferenceUID") == data.get("FrameOfReferenceUID"):
            to_own = matrix
        else:
            others.append(matrix)
    if len(others) != 1:
        raise InputError(f"{len(others)} frames are registered to one, one was expected")
    return from_homogeneous(np.linalg.inv(others[0]) @ to_own)


def _matrix(step: Any) -> Array:
    values = np.array(step.FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
    if not np.allclose(values[3], [0, 0, 0, 1]) or abs(np.linalg.det(values)) < 1e-12:
        raise InputError("a matrix of it is not affine")
    return values


def _from_grid(data: Dataset) -> Transform:
    if len(data.DeformableRegistrationSequence) != 1:
        raise InputError("several moving frames, one was expected")
    (item,) = data.DeformableRegistrationSequence
    before, after = (
        _matrix(item[name][0]) if name in item else np.eye(4)
        for name in (
            "PreDeformationMatrixRegistrationSequence",
            "PostDeformationMatrixRegistrationSequence",
        )
    )
    (stored,) = item.DeformableRegistrationGridSequence
    field = _field(stored, np.asarray(np.linalg.inv(before[:3, :3]), float))
    matrix = after @ before
    if np.array_equal(matrix, np.eye(4)):
        return field
    return CompositeTransform((from_homogeneous(matrix), field))


def _field(stored: Any, turn: Array) -> DisplacementField:
    axes = np.array(stored.ImageOrientationPatient, float).reshape(2, 3)
    direction = np.column_stack([*axes, np.cross(*axes)])
    size = tuple(int(n) for n in stored.GridDimensions)
    grid = Grid(
        size,
        tuple(float(v) for v in stored.GridResolution),
        tuple(float(v) for v in stored.ImagePositionPatient),
        tuple(direction.ravel().tolist()),
    )
    numbers = np.frombuffer(stored.VectorGridData, "<f4").reshape(*size[::-1], 3)
    if not np.isfinite(numbers).all():
        raise InputError("the deformation is undefined at some points")
    return DisplacementField(grid, (numbers @ turn.T).astype(np.float32))


def write_registration(
    path: Path, transform: Transform, fixed: Path | None, moving: Path | None, keep_identity: bool
) -> None:
    """An affine as a Spatial Registration, else a Deformable one, between two DICOM series.

    keep_identity: of the fixed series' patient and study. Raises UsageError.
    """
    frames = [frame_of_reference(p) if p else "" for p in (fixed, moving)]
    if fixed is None or not all(frames):
        raise UsageError(
            "a DICOM registration names the frames of reference of two DICOM series",
            "give both: --reference and --moving",
        )
    if transform.dimension != 3:
        raise UsageError("a DICOM registration is of 3D images", "write .h5")
    source = source_header(fixed) if keep_identity else None
    data = _common(frames[0], source)
    parts = covering(transform, None)
    if all(isinstance(part, AffineTransform) for part in parts):
        _add_matrices(data, product(transform, "a matrix"), frames)
    else:
        _add_grid(data, parts, frames[1])
    data.save_as(path, enforce_file_format=True)


def _common(frame_uid: str, source: Dataset | None) -> Dataset:
    """What either object says about itself; of the source's identity what is given."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    now = datetime.datetime.now()
    kept = {name: source[name].value for name in IDENTITY if source and name in source}
    data = Dataset()
    values = {
        "StudyInstanceUID": new_uid(),
        **NO_IDENTITY,
        **kept,
        "SOPInstanceUID": new_uid(),
        "SeriesInstanceUID": new_uid(),
        "Modality": "REG",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "ContentDate": f"{now:%Y%m%d}",
        "ContentTime": f"{now:%H%M%S}",
        "ContentLabel": "REGISTRATION",
        "ContentDescription": "",
        "ContentCreatorName": "",
        "Manufacturer": "carl",
        "ManufacturerModelName": "carl",
        "DeviceSerialNumber": "0",
        "SoftwareVersions": __version__,
        "Laterality": "",
        "FrameOfReferenceUID": frame_uid,
        "PositionReferenceIndicator": "",
    }
    for name, value in values.items():
        setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def _add_matrices(data: Dataset, affine: AffineTransform, frames: list[str]) -> None:
    from pydicom import Dataset

    data.SOPClassUID = RIGID
    data.RegistrationSequence = []
    for frame, matrix in zip(frames, (np.eye(4), affine.inverse().homogeneous), strict=True):
        registration, item = Dataset(), Dataset()
        registration.MatrixSequence = [_as_matrix(matrix)]
        registration.RegistrationTypeCodeSequence = []
        item.FrameOfReferenceUID = frame
        item.MatrixRegistrationSequence = [registration]
        data.RegistrationSequence.append(item)


def _as_matrix(matrix: Array) -> Dataset:
    from pydicom import Dataset

    turn = matrix[:3, :3]
    rigid = np.abs(turn @ turn.T - np.eye(3)).max() < ORTHONORMAL and np.linalg.det(turn) > 0
    step = Dataset()
    step.FrameOfReferenceTransformationMatrixType = "RIGID" if rigid else "AFFINE"
    step.FrameOfReferenceTransformationMatrix = [f"{v:.9g}" for v in matrix.ravel()]
    return step


def _add_grid(data: Dataset, parts: list[Transform], moving_frame: str) -> None:
    """The field that acts first as it is, with affines after it; anything else sampled on it."""
    from pydicom import Dataset

    *after, first = parts
    exact = isinstance(first, DisplacementField)
    if not exact or not all(isinstance(part, AffineTransform) for part in after):
        grids = [part.grid for part in parts if isinstance(part, DisplacementField)]
        first, after = dense(CompositeTransform(tuple(parts)), grids[-1]), []
    assert isinstance(first, DisplacementField)
    data.SOPClassUID = DEFORMABLE
    item = Dataset()
    item.SourceFrameOfReferenceUID = moving_frame
    item.RegistrationTypeCodeSequence = []
    item.DeformableRegistrationGridSequence = [_as_grid(first)]
    if after:
        matrix = product(CompositeTransform(tuple(after)), "a matrix").homogeneous
        item.PostDeformationMatrixRegistrationSequence = [_as_matrix(matrix)]
    data.DeformableRegistrationSequence = [item]


def _as_grid(field: DisplacementField) -> Dataset:
    """The third axis is the cross product of the others: a left-handed grid is turned over."""
    from pydicom import Dataset

    grid, vectors = field.grid, field.displacement_mm
    origin = np.array(grid.origin_mm)
    if np.linalg.det(grid.direction_matrix) < 0:
        last = [0, 0, grid.size_xyz[2] - 1, 1]
        origin, vectors = (grid.index_to_lps @ last)[:3], vectors[::-1]
    stored = Dataset()
    stored.ImagePositionPatient = [f"{v:.9g}" for v in origin]
    stored.ImageOrientationPatient = [f"{v:.9g}" for v in grid.direction_matrix[:, :2].T.ravel()]
    stored.GridDimensions = list(grid.size_xyz)
    stored.GridResolution = list(grid.spacing_mm)
    stored.VectorGridData = np.ascontiguousarray(vectors, "<f4").tobytes()
    return stored

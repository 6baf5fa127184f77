"""DICOM registration objects: read back, by the standard's formula, and by dciodvfy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.dicom_write import write_dicom_series
from carl_cli.io.images.image import Image
from carl_cli.io.transforms.dicom_registration import write_registration
from carl_cli.io.transforms.files import read_transform
from carl_cli.transforms import AffineTransform, Transform
from tests.conftest import GRIDS
from tests.fields import field_on, inner_points
from tests.measured import assert_close

FRAMES = ("1.2.3.4", "1.2.3.5")
TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


@pytest.fixture
def series(tmp_path: Path, any_grid: Grid) -> tuple[Path, Path]:
    """Folders of a fixed and a moving series."""
    folders = tmp_path / "fixed", tmp_path / "moving"
    header = pydicom.Dataset()
    header.Modality, header.PatientName, header.PatientID = "CT", "Zaphod", "42"
    for folder, frame in zip(folders, FRAMES, strict=True):
        image = Image(np.zeros(any_grid.shape_zyx, np.int16), any_grid)
        write_dicom_series(folder, image, frame, header, keep_identity=True)
    return folders


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_matrix_leads_from_moving_to_fixed(
    tmp_path: Path, kind: str, series: tuple[Path, Path], affine: AffineTransform
) -> None:
    transform = AffineTransform(TURN, np.array([6.0, -4, 3])) if kind == "rigid" else affine
    path = tmp_path / "reg.dcm"
    write_registration(path, transform, *series, keep_identity=False)
    data = pydicom.dcmread(path)
    assert data.SOPClassUID.name == "Spatial Registration Storage"
    fixed, moving = data.RegistrationSequence
    assert (fixed.FrameOfReferenceUID, moving.FrameOfReferenceUID) == FRAMES
    assert data.FrameOfReferenceUID == FRAMES[0]
    (step,) = moving.MatrixRegistrationSequence[0].MatrixSequence
    assert step.FrameOfReferenceTransformationMatrixType == kind.upper()
    matrix = np.array(step.FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    back = apply_affine(matrix, transform(points))
    file = "DICOM Spatial Registration"
    assert_close(back, points, 1e-5, file=file, way="written", referee="pydicom")
    moved = apply_affine(np.linalg.inv(matrix), points)
    ours = read_transform(path)(points)
    assert_close(ours, moved, 1e-5, file=file, way="read", referee="pydicom")


@pytest.mark.parametrize("chain", ["field", "affine after", "affine before"])
def test_a_grid_leads_from_fixed_to_moving(
    tmp_path: Path, chain: str, series: tuple[Path, Path], any_grid: Grid, affine: AffineTransform
) -> None:
    field, path = field_on(any_grid), tmp_path / "reg.dcm"
    transform: Transform = {
        "field": field, "affine after": affine @ field, "affine before": field @ affine,
    }[chain]  # fmt: skip
    write_registration(path, transform, *series, keep_identity=False)
    points = any_grid.points_mm()[3:-3:4, 3:-3:4, 3:-3:4].reshape(-1, 3)
    np.testing.assert_allclose(read_transform(path)(points), transform(points), atol=1e-4)
    data = pydicom.dcmread(path)
    assert data.SOPClassUID.name == "Deformable Spatial Registration Storage"
    (item,) = data.DeformableRegistrationSequence
    assert item.SourceFrameOfReferenceUID == FRAMES[1]
    (grid,) = item.DeformableRegistrationGridSequence
    expected = by_the_standard(item, grid, (3, 4, 2))
    x = position(grid, (3, 4, 2))
    file = "DICOM Deformable Spatial Registration"
    assert_close(transform(x), expected, 1e-4, file=file, way="written", referee="pydicom")
    ours = read_transform(path)(x)
    assert_close(ours, expected, 1e-4, file=file, way="read", referee="pydicom")


def position(grid: pydicom.Dataset, index: tuple[int, ...]) -> np.ndarray:
    row, column = np.array(grid.ImageOrientationPatient, float).reshape(2, 3)
    steps = np.array(index) * np.array(grid.GridResolution)
    axes = np.stack([row, column, np.cross(row, column)])
    return np.array(grid.ImagePositionPatient, float) + steps @ axes


def by_the_standard(
    item: pydicom.Dataset, grid: pydicom.Dataset, index: tuple[int, ...]
) -> np.ndarray:
    """PS3.3 C.20.3.1.1: Post (Pre x + D), written out."""
    x, y, z = grid.GridDimensions
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(z, y, x, 3)
    moved = position(grid, index) + vectors[index[2], index[1], index[0]]
    if "PostDeformationMatrixRegistrationSequence" not in item:
        return moved
    step = item.PostDeformationMatrixRegistrationSequence[0]
    matrix = np.array(step.FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
    return apply_affine(matrix, moved)


def test_a_matrix_before_the_grid(tmp_path: Path, series: tuple[Path, Path]) -> None:
    """Pre turns the point, not the place at which the grid is looked up."""
    field, path = field_on(GRIDS["plain"]), tmp_path / "reg.dcm"
    write_registration(path, field, *series, keep_identity=False)
    data = pydicom.dcmread(path)
    step = pydicom.Dataset()
    step.FrameOfReferenceTransformationMatrixType = "RIGID"
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = TURN, [1, 2, 3]
    step.FrameOfReferenceTransformationMatrix = matrix.ravel().tolist()
    item = data.DeformableRegistrationSequence[0]
    item.PreDeformationMatrixRegistrationSequence = [step]
    data.save_as(path)
    points = inner_points(GRIDS["plain"], 20)
    expected = apply_affine(matrix, points) + field(points) - points
    np.testing.assert_allclose(read_transform(path)(points), expected, atol=1e-4)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (apt: dicom3tools)")
@pytest.mark.parametrize("kind", ["matrix", "grid"])
@pytest.mark.parametrize("keep", [False, True])
def test_dciodvfy_finds_no_error(
    tmp_path: Path, kind: str, keep: bool, series: tuple[Path, Path], affine: AffineTransform
) -> None:
    transform = affine if kind == "matrix" else affine @ field_on(GRIDS["plain"])
    write_registration(tmp_path / "reg.dcm", transform, *series, keep_identity=keep)
    command = ["dciodvfy", "-new", tmp_path / "reg.dcm"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "SpatialRegistration" in said
    assert "Error" not in said
    assert str(pydicom.dcmread(tmp_path / "reg.dcm").PatientName) == ("Zaphod" if keep else "")


def test_refusals(tmp_path: Path, series: tuple[Path, Path], affine: AffineTransform) -> None:
    with pytest.raises(UsageError, match="two DICOM series"):
        write_registration(tmp_path / "reg.dcm", affine, series[0], None, keep_identity=False)
    with pytest.raises(InputError, match="no registration object"):
        read_transform(next(series[0].iterdir()))
    (tmp_path / "bad.dcm").write_bytes(b"nothing" * 100)
    with pytest.raises(InputError, match=r"bad\.dcm"):
        read_transform(tmp_path / "bad.dcm")

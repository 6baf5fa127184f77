"""MINC's .xfm: mincresample and ITK's own reader of them are the referees."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.ras import affine_to_ras, flip_vectors
from carl_cli.io.transforms.files import read_transform
from carl_cli.transforms import AffineTransform, DisplacementField
from tests.conftest import make_grid
from tests.fields import field_on, waves
from tests.measured import assert_close

pytestmark = pytest.mark.skipif(
    shutil.which("rawtominc") is None, reason="needs rawtominc (Debian: minc-tools)"
)
TURN = np.array([[0.98, -0.199, 0.0], [0.199, 0.98, 0.0], [0.0, 0.0, 1.0]])
TURN[:, :2] /= np.linalg.norm(TURN[:, :2], axis=0)
FLIP = np.diag([-1.0, -1.0, 1.0])
FIELD = make_grid((17, 16, 15), (5.0, 6.0, 7.0), (1.0, -2.0, 3.0), FLIP @ TURN)
IMAGE = make_grid((22, 20, 18), (2.5, 3.0, 3.5), (0.0, 1.0, -1.0), FLIP)
AFFINE = AffineTransform(
    np.array([[1.02, -0.05, 0.02], [0.06, 0.97, -0.04], [0.01, 0.05, 1.03]]),
    np.array([3.0, -2.0, 4.0]),
)
FILE = "MINC .xfm"


def volume(path: Path, grid: Grid, numbers: np.ndarray) -> None:
    """By rawtominc, on a grid whose axes run with x, y and z in RAS."""
    origin, axes = flip_vectors(np.array(grid.origin_mm)), FLIP @ grid.direction_matrix
    start = axes.T @ origin  # MINC counts starts along the axes
    words = ["rawtominc", "-2", "-float", "-ofloat", "-clobber"]
    if numbers.ndim == 4:
        words += ["-vector", "3"]
    for k, name in enumerate("xyz"):
        words += [f"-{name}step", repr(grid.spacing_mm[k]), f"-{name}start", repr(float(start[k]))]
        words += [f"-{name}dircos", *(repr(float(v)) for v in axes[:, k])]
    raw = path.with_suffix(".raw")
    numbers.astype("<f4").tofile(raw)
    size = map(str, grid.size_xyz[::-1])
    subprocess.run([*words, "-input", str(raw), str(path), *size], check=True)


def linear(affine: AffineTransform) -> str:
    rows = "\n".join(" ".join(f"{v:.12g}" for v in row) for row in affine_to_ras(affine)[:3])
    return f"Transform_Type = Linear;\nLinear_Transform =\n{rows};\n"


def xfm(path: Path, *parts: str) -> Path:
    path.write_text("MNI Transform File\n%made by a test\n\n" + "".join(parts))
    return path


@pytest.fixture
def grid_part(tmp_path: Path) -> str:
    volume(tmp_path / "t_grid_0.mnc", FIELD, flip_vectors(field_on(FIELD).displacement_mm))
    return "Transform_Type = Grid_Transform;\nDisplacement_Volume = t_grid_0.mnc;\n"


def inner(margin: int = 4) -> np.ndarray:
    return FIELD.points_mm()[margin:-margin, margin:-margin, margin:-margin].reshape(-1, 3)


def test_a_grid_by_itk(tmp_path: Path, grid_part: str) -> None:
    """The file's own direction, moving to fixed, at the grid's voxels; ITK leaves RAS as it is."""
    path = xfm(tmp_path / "t.xfm", grid_part)
    theirs = sitk.ReadTransform(str(path))
    points = inner()
    expected = [theirs.TransformPoint(p.tolist()) for p in flip_vectors(points)]
    found = read_transform(path).inverse()(points)
    assert_close(
        found, flip_vectors(np.array(expected)), 1e-4, file=FILE + " grid", way="read",
        referee="SimpleITK",
    )  # fmt: skip
    np.testing.assert_allclose(found, points + waves(points), atol=1e-4)
    inverted = grid_part.replace(";\n", ";\nInvert_Flag = True;\n", 1)
    field = read_transform(xfm(tmp_path / "i.xfm", inverted))
    assert isinstance(field, DisplacementField)
    np.testing.assert_allclose(field(points), found, atol=1e-4)


@pytest.mark.parametrize("order", ["linear", "grid", "linear grid", "grid linear"])
def test_mincresample_takes_voxels_from_the_same_places(
    tmp_path: Path, order: str, grid_part: str
) -> None:
    """Of an image that holds its own coordinates the resampled one holds the mapped points."""
    parts = {"linear": linear(AFFINE), "grid": grid_part}
    path = xfm(tmp_path / "t.xfm", *(parts[name] for name in order.split()))
    mapped = read_transform(path)(IMAGE.points_mm())
    ras, found = flip_vectors(IMAGE.points_mm()), []
    for k, name in enumerate("xyz"):
        volume(tmp_path / f"{name}.mnc", IMAGE, ras[..., k])
        words = ["mincresample", "-quiet", "-clobber", "-transformation", path]
        words += ["-fillvalue", "-9999", tmp_path / f"{name}.mnc", tmp_path / f"{name}out.mnc"]
        words += ["-use_input_sampling"]
        subprocess.run([str(word) for word in words], check=True)
        found.append(nibabel.load(tmp_path / f"{name}out.mnc").get_fdata())
    theirs = flip_vectors(np.stack(found, axis=-1))
    index = apply_affine(IMAGE.lps_to_index, mapped)
    inside = np.all((index > 1) & (index < np.array(IMAGE.size_xyz) - 2), axis=-1)
    assert inside.mean() > 0.3
    most = 0.15 if "grid" in order else 1e-3  # MINC interpolates its grids by cubic splines
    file = f"{FILE}, {order}, between its voxels"
    assert_close(
        theirs[inside], mapped[inside], most, file=file, way="read", referee="mincresample"
    )


def test_what_is_wrong_is_said(tmp_path: Path, grid_part: str) -> None:
    cases = {
        "its grid none.mnc is missing": grid_part.replace("t_grid_0", "none"),
        "a Thin_Plate_Spline_Transform of MINC": "Transform_Type = Thin_Plate_Spline_Transform;\n",
        "2 words, the 12 numbers": "Transform_Type = Linear;\nLinear_Transform = 1 2;\n",
        "no transform in it": "",
    }
    for words, content in cases.items():
        with pytest.raises(InputError, match=words):
            read_transform(xfm(tmp_path / "t.xfm", content))
    volume(tmp_path / "none.mnc", FIELD, np.zeros(FIELD.shape_zyx))
    with pytest.raises(InputError, match="1 numbers a voxel"):
        read_transform(xfm(tmp_path / "t.xfm", grid_part.replace("t_grid_0", "none")))
    (tmp_path / "t.xfm").write_text("something else")
    with pytest.raises(InputError, match="does not begin with 'MNI Transform File'"):
        read_transform(tmp_path / "t.xfm")


def test_a_truncated_number_is_no_number(tmp_path: Path) -> None:
    """The last one lost its digits without a word."""
    path, whole = tmp_path / "t.xfm", linear(AFFINE)
    assert read_transform(xfm(path, whole)).dimension == 3
    for damaged in (whole.rstrip()[:-3], whole.replace("Linear_Transform =", "Linear_Transform")):
        with pytest.raises(InputError, match="an entry without its = or ;"):
            read_transform(xfm(path, damaged))

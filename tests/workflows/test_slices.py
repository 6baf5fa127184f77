"""Slices: the default weights for 2D, against a motion that is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import carl_cli
from carl_cli.weights.locate import embedded_folder
from carl_cli.weights.registry import DEFAULT_2D, suited
from tests.cli.conftest import Carl

SIDE, MIDDLE = 160, 79.5
# Middle, half axes and brightness of organs in a body; mm.
ORGANS = [(0, 0, 62, 50, 90), (0, 0, 56, 44, 60), (-22, -12, 14, 18, 160), (24, -8, 16, 11, 120)]
ORGANS += [(4, 24, 20, 9, 200), (-30, 18, 8, 8, 30), (34, 20, 6, 9, 220), (0, -28, 7, 7, 20)]


def anatomy(points: np.ndarray) -> np.ndarray:
    """Grey values at points (..., 2), mm from the middle; the last organ covers those before."""
    value = np.zeros(points.shape[:-1])
    for x, y, a, b, grey in ORGANS:
        distance = np.hypot((points[..., 0] - x) / a, (points[..., 1] - y) / b) - 1
        share = np.clip(0.5 - distance * min(a, b), 0, 1)
        value = value * (1 - share) + grey * share
    x, y = points[..., 0], points[..., 1]
    tissue = np.sin(x / 5 + 2 * np.sin(y / 9)) * np.sin(y / 6 + np.sin(x / 11))
    return value * (1 + 0.2 * tissue)


def motion(points: np.ndarray, bend: float = 4) -> np.ndarray:
    """Fixed → moving, mm: bent by up to `bend`, turned by 8 degrees, shifted by 15 mm."""
    centred = points - MIDDLE
    bent = centred + bend * np.sin(centred[..., ::-1] / 18)
    c, s = np.cos(np.deg2rad(8)), np.sin(np.deg2rad(8))
    return bent @ np.array([[c, s], [-s, c]]) + [12, -9] + MIDDLE


def inverse_motion(points: np.ndarray, bend: float) -> np.ndarray:
    found = points.copy()
    for _ in range(60):
        found = found - 0.7 * (motion(found, bend) - points)
    return found


@pytest.fixture
def slices(tmp_path: Path) -> tuple[Path, Path]:
    return pictures(tmp_path)


def pictures(folder: Path, bend: float = 4) -> tuple[Path, Path]:
    """Fixed and moving picture, spacing 1 mm, PNG and NIfTI."""
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    points = np.stack([x, y], axis=-1).astype(float)
    at = inverse_motion(points, bend)
    assert np.abs(motion(at, bend) - points).max() < 1e-6
    files = folder / "fixed.png", folder / "moving.nii.gz"
    for path, places in zip(files, (points, at), strict=True):
        image = sitk.GetImageFromArray(anatomy(places - MIDDLE).round().astype(np.uint8))
        sitk.WriteImage(image, str(path))
    return files


def invert(path: Path) -> None:
    """Bright organs become dark ones; the air stays at 0."""
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.Cast(image > 0, image.GetPixelID()) * (250 - image), str(path))


def errors(transform: Path, bend: float = 4) -> np.ndarray:
    """Of points in the body, mm."""
    read = sitk.ReadTransform(str(transform))
    x, y = np.meshgrid(np.arange(30, 130, 4), np.arange(38, 122, 4))
    points = np.stack([x.ravel(), y.ravel()], axis=-1).astype(float)
    points = points[anatomy(points - MIDDLE) > 0]
    mapped = np.array([read.TransformPoint(p) for p in points.tolist()])
    error: np.ndarray = np.linalg.norm(mapped - motion(points, bend), axis=1)
    return error


@pytest.mark.parametrize(("inverted", "largest"), [(False, (1.0, 2.5)), (True, (2.5, 7.0))])
def test_slices_are_registered_by_weights_of_their_own(
    carl: Carl,
    slices: tuple[Path, Path],
    tmp_path: Path,
    inverted: bool,
    largest: tuple[float, float],
) -> None:
    """Mean and 95th percentile, mm; before: 15 mm and more."""
    fixed, moving = slices
    if inverted:
        invert(moving)
    out, record = tmp_path / "t.h5", tmp_path / "r.json"
    said = carl("register", fixed, moving, "-o", out, "--json", record)
    assert said.code == 0, said.err
    assert said.err.count("fixed.png: no pixel size: 1 mm along each axis is assumed") == 1
    assert json.loads(record.read_text())["weights"]["name"] == DEFAULT_2D
    error = errors(out)
    assert error.mean() < largest[0]
    assert np.percentile(error, 95) < largest[1]


def test_all_commands_take_slices(
    carl: Carl, slices: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fixed, moving = slices
    files = ["-o", "t.h5", "-w", "w.nii.gz", "--jacobian", "j.nii.gz", "--report", "r.html"]
    assert carl("register", fixed, moving, *files, "--io").code == 0
    onto = ["-r", fixed]
    assert carl("warp", moving, *onto, "-t", "t.h5", "-o", "w2.nii.gz").code == 0
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(name)) for name in ("w.nii.gz", "w2.nii.gz"))
    np.testing.assert_array_equal(a, b)
    target = sitk.GetArrayFromImage(sitk.ReadImage(str(fixed))).astype(float)
    assert np.corrcoef(a.ravel(), target.ravel())[0, 1] > 0.98
    assert carl("convert", "t.h5", *onto, "-o", "field.nii.gz").code == 0
    assert errors(tmp_path / "t.h5").mean() < 1.0
    assert carl("jacobian", "t.h5", *onto, "-o", "j2.nii.gz").code == 0
    assert carl("invert", "t.h5", "-o", "back.h5").code == 0
    there, back = (sitk.ReadTransform(name) for name in ("t.h5", "back.h5"))
    np.testing.assert_allclose(
        back.TransformPoint(there.TransformPoint((80, 70))), (80, 70), atol=0.1
    )
    assert "t.h5" in carl("info", "t.h5").out


@pytest.mark.parametrize("inverted", [False, True])
def test_a_rigid_motion_of_slices(carl: Carl, tmp_path: Path, inverted: bool) -> None:
    out, (fixed, moving) = tmp_path / "r.tfm", pictures(tmp_path, bend=0)
    if inverted:
        invert(moving)
    said = carl("register", fixed, moving, "--transform", "rigid", "-o", out)
    assert said.code == 0, said.err
    angle = sitk.ReadTransform(str(out)).GetParameters()[0]
    assert abs(abs(np.rad2deg(angle)) - 8) < 0.3
    assert errors(out, bend=0).mean() < 0.3


def test_the_library_chooses_alike(slices: tuple[Path, Path]) -> None:
    found = carl_cli.register(*slices)
    assert found.weights.config.name == DEFAULT_2D
    assert found.weights.source == str(embedded_folder(DEFAULT_2D))


def test_other_weights_stay_as_they_are() -> None:
    assert suited("carl-base", 3) == "carl-base"
    assert suited("carl-base", 2) == DEFAULT_2D
    assert suited("unicarl", 2) == "unicarl"


def test_a_batch_of_slices(carl: Carl, slices: tuple[Path, Path], tmp_path: Path) -> None:
    """The first case is missing: the second one decides."""
    fixed, moving = slices
    table = tmp_path / "pairs.csv"
    table.write_text(f"fixed,moving\n{tmp_path}/gone.png,{moving}\n{fixed},{moving}\n")
    said = carl("batch", table, "-o", tmp_path / "out", "--workers", 1, "--keep-going")
    assert said.code != 0  # one of the two failed
    done = list((tmp_path / "out").rglob("*.h5"))
    assert len(done) == 1, said.err
    assert errors(done[0]).mean() < 1.0

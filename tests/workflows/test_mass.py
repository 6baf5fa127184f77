"""--intensity-conservation: the sum of a blob times the volume of a voxel, whatever the transform.

T(x) = x + u(x) maps fixed to moving points towards their middle, so that the warped blob is larger:
u(x) = -0.35 (x - c) exp(-|x - c|²/2s²), whose Jacobian determinant is 0.27 at the middle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.io.transforms.files import write_transform
from carl_cli.transforms import DisplacementField
from tests.cli.conftest import Carl
from tests.conftest import make_grid
from tests.workflows.test_outputs import array_of

KEPT = 0.005  # of the mass
MOVING = make_grid((44, 40, 30), (2.0, 2.2, 3.0))
FIXED = make_grid((40, 48, 36), (2.6, 2.2, 2.8), (1.0, -2.0, 0.5))


def blob(grid: Grid) -> np.ndarray:
    away = ((grid.points_mm() - (2.0, 1.0, -3.0)) / (9.0, 11.0, 10.0)) ** 2
    return np.asarray(1000 * np.exp(-away.sum(-1) / 2))


def mass(path: Path, no_mass: float = 0.0) -> float:
    volume = np.prod(sitk.ReadImage(str(path)).GetSpacing())
    return float((array_of(path) - no_mass).sum() * volume)


@pytest.fixture(params=[("int16", 0.0), ("float32", 0.0), ("int16", -1000.0)])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, float]:
    """i.nii.gz, f.nii.gz and u.nii.gz in this folder; the value of no mass: air, in HU, of CT."""
    dtype, no_mass = request.param
    for name, grid in (("i", MOVING), ("f", FIXED)):
        values = blob(grid) + no_mass
        values = np.rint(values) if dtype == "int16" else values
        write_image(tmp_path / f"{name}.nii.gz", Image(values.astype(dtype), grid))
    away = FIXED.points_mm() - (2.0, 1.0, -3.0)
    shrink = -0.35 * np.exp(-(away**2).sum(-1, keepdims=True) / (2 * 20.0**2))
    field = DisplacementField(FIXED, (away * shrink).astype(np.float32))
    write_transform(tmp_path / "u.nii.gz", field)
    return tmp_path, no_mass


def assert_kept(folder: Path, warped: Path, no_mass: float) -> None:
    before = mass(folder / "i.nii.gz", no_mass)
    assert mass(warped, no_mass) == pytest.approx(before, rel=KEPT)
    assert array_of(warped).max() - no_mass < 500  # a larger blob is thinner
    assert sitk.ReadImage(str(warped)).GetPixelID() == sitk.sitkFloat32


def test_warp_keeps_the_mass(carl: Carl, files: tuple[Path, float]) -> None:
    """Without the option it grows by more than two thirds."""
    folder, no_mass = files
    out = folder / "w.nii.gz"
    line = ("warp", folder / "i.nii.gz", "-r", folder / "f.nii.gz", "-t", folder / "u.nii.gz")
    line = (*line, "-f", no_mass, "-o", out)
    assert carl(*line).code == 0
    assert mass(out, no_mass) > 5 / 3 * mass(folder / "i.nii.gz", no_mass)
    assert carl(*line, "--overwrite", "--intensity-conservation").code == 0
    assert_kept(folder, out, no_mass)


def test_register_keeps_the_mass(
    carl: Carl, files: tuple[Path, float], identity_weights: Path
) -> None:
    """From a start that a network which finds nothing does not change; back, by -W, too."""
    folder, no_mass = files
    images = (folder / "f.nii.gz", folder / "i.nii.gz", "-i", folder / "u.nii.gz")
    outs = ("-w", folder / "w.nii.gz", "-W", folder / "back.nii.gz")
    method = ("--weights", identity_weights, "--intensity-conservation", "--threads", 1)
    method = (*method, "--modality", "ct" if no_mass else "mr")
    assert carl("register", *images, *outs, *method).code == 0
    assert_kept(folder, folder / "w.nii.gz", no_mass)
    before = mass(folder / "f.nii.gz", no_mass)
    assert mass(folder / "back.nii.gz", no_mass) == pytest.approx(before, rel=2 * KEPT)


def test_what_has_no_mass_is_refused(
    carl: Carl, files: tuple[Path, float], identity_weights: Path
) -> None:
    folder, no_mass = files
    line = ("warp", folder / "i.nii.gz", "-t", folder / "u.nii.gz", "--intensity-conservation")
    out = ("-o", folder / "w.nii.gz")
    labels = carl(*line, *out, "-n", "genericLabel", "-f", no_mass)
    assert labels.code == 2
    assert "labels have no mass" in labels.err
    if no_mass:
        hounsfield = carl(*line, *out)
        assert hounsfield.code == 2
        assert "add -f -1000" in hounsfield.err
    images = ("register", folder / "f.nii.gz", folder / "i.nii.gz", "--weights", identity_weights)
    alone = carl(*images, "-o", folder / "t.h5", "--intensity-conservation")
    assert alone.code == 2
    assert "without a warped image" in alone.err
    assert not (folder / "w.nii.gz").exists()

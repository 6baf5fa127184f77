"""NaN for what was not imaged, and a moving time series: the transform of a plain image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.cli.conftest import Carl
from tests.workflows.conftest import PairFiles


@pytest.fixture
def plain(pair: PairFiles, tmp_path: Path) -> sitk.Image:
    image: sitk.Image = sitk.Cast(sitk.ReadImage(str(pair.moving)), sitk.sitkFloat32)
    sitk.WriteImage(image, str(tmp_path / "plain.nii.gz"))
    return image


def displacements(carl: Carl, pair: PairFiles, moving: Path, weights: Path, *options: object) -> (
    tuple[np.ndarray, str]
):  # fmt: skip
    out = moving.with_name("t.nii.gz")
    said = carl(
        "register", pair.fixed, moving, "-o", out, "--overwrite", "--weights", weights, *options
    )
    assert said.code == 0, said.err
    return sitk.GetArrayFromImage(sitk.ReadImage(str(out))), said.err


def test_nan_is_outside_the_field_of_view(
    carl: Carl, plain: sitk.Image, pair: PairFiles, smooth_weights: Path, tmp_path: Path
) -> None:
    """Air that is NaN in one half of the image changes nothing; one warning says how many."""
    expected, _ = displacements(carl, pair, tmp_path / "plain.nii.gz", smooth_weights)
    array = sitk.GetArrayFromImage(plain)
    air = array == array.min()
    air[array.shape[0] // 2 :] = False
    assert 0.02 < air.mean() < 0.6
    holed = sitk.GetImageFromArray(np.where(air, np.nan, array))
    holed.CopyInformation(plain)
    sitk.WriteImage(holed, str(tmp_path / "nan.nii.gz"))
    found, told = displacements(carl, pair, tmp_path / "nan.nii.gz", smooth_weights)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert told.count(f"{air.sum()} voxels are NaN: taken as outside the field of view") == 1
    assert np.abs(expected).max() > 5


def test_an_image_with_itself_is_told(
    carl: Carl, plain: sitk.Image, pair: PairFiles, smooth_weights: Path, tmp_path: Path
) -> None:
    """By voxels and place, not by name: a copy is the same image, one that was moved is not."""
    copy, moved = tmp_path / "copy.nrrd", tmp_path / "moved.nii.gz"
    sitk.WriteImage(plain, str(copy))
    plain.SetOrigin([v + 1 for v in plain.GetOrigin()])
    sitk.WriteImage(plain, str(moved))
    call = ("register", tmp_path / "plain.nii.gz", "--weights", smooth_weights, "--json")
    told = {}
    for moving in (copy, moved):
        record = tmp_path / f"{moving.name}.json"
        said = carl(*call, record, moving)
        assert said.code == 0, said.err
        told[moving] = json.loads(record.read_text())["warnings"]
    assert told[copy][0].startswith("Fixed and moving are the same image")
    assert not any("same image" in text for text in told[moved])
    said = carl(*call, tmp_path / "dry.json", copy, "--dry-run")
    assert "Fixed and moving are the same image" in said.err


def test_a_time_series_is_registered_by_its_mean_or_one_volume(
    carl: Carl, plain: sitk.Image, pair: PairFiles, smooth_weights: Path, tmp_path: Path
) -> None:
    """Volumes 0.5, 1 and 1.5 times the image: the mean and number 1 are the image itself."""
    expected, _ = displacements(carl, pair, tmp_path / "plain.nii.gz", smooth_weights)
    series = tmp_path / "series.nii.gz"
    other = sitk.Flip(plain, (True, False, False))
    other.CopyInformation(plain)
    volumes = [plain + 0.5 * (other - plain), plain, plain - 0.5 * (other - plain)]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(series))
    by_mean, told = displacements(carl, pair, series, smooth_weights)
    np.testing.assert_allclose(by_mean, expected, atol=1e-3)
    assert "mean of its 3 volumes" in told
    one, _ = displacements(carl, pair, series, smooth_weights, "--time-index", 1)
    np.testing.assert_allclose(one, expected, atol=1e-3)
    assert scored(carl, pair, series) == pytest.approx(
        scored(carl, pair, tmp_path / "plain.nii.gz")
    )
    first, _ = displacements(carl, pair, series, smooth_weights, "--time-index", 0)
    assert np.abs(first - expected).max() > 0.1


def scored(carl: Carl, pair: PairFiles, moving: Path) -> float:
    """LNCC loss before and after, as `carl evaluate` says."""
    out = moving.with_name("scores.json")
    files = ("-f", pair.fixed, "-m", moving, "-t", moving.with_name("t.nii.gz"))
    said = carl("evaluate", *files, "-o", out, "--overwrite")
    assert said.code == 0, said.err
    value: float = json.loads(out.read_text())["cases"][0]["similarity_after"]["lncc"]
    return value


def test_warp_carries_every_volume(
    carl: Carl, plain: sitk.Image, pair: PairFiles, tmp_path: Path
) -> None:
    """Each volume of the result is what SimpleITK makes of it."""
    shift = sitk.TranslationTransform(3, (6.0, -4.0, 3.0))
    affine = sitk.AffineTransform(3)
    affine.SetTranslation(shift.GetOffset())
    sitk.WriteTransform(affine, str(tmp_path / "t.mat"))
    volumes = [plain, plain * 2, plain + 7]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "series.nii.gz"))
    chain = ("-r", pair.fixed, "-t", tmp_path / "t.mat", "-o", tmp_path / "w.nii.gz")
    assert carl("warp", tmp_path / "series.nii.gz", *chain).code == 0
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "w.nii.gz")))
    fixed = sitk.ReadImage(str(pair.fixed))
    for found, volume in zip(warped, volumes, strict=True):
        expected = sitk.GetArrayFromImage(sitk.Resample(volume, fixed, affine))
        assert np.mean(np.abs(found - expected) < 0.01 * expected.max()) > 0.98


def test_a_volume_that_no_image_has_is_refused(
    carl: Carl, plain: sitk.Image, pair: PairFiles, smooth_weights: Path, tmp_path: Path
) -> None:
    """Number 0 of a single volume is that volume; components are no volumes."""
    vectors = tmp_path / "vectors.nrrd"
    sitk.WriteImage(sitk.Compose(plain, plain), str(vectors))
    call = ("--weights", smooth_weights, "-o", tmp_path / "t.h5", "--dry-run", "--time-index")
    told = {
        number: carl("register", pair.fixed, tmp_path / "plain.nii.gz", *call, number)
        for number in (0, 3)
    }
    assert (told[0].code, told[3].code) == (0, 3), told
    assert "no volume 3: neither" in told[3].err
    told[0] = carl("register", vectors, vectors, *call, 0)
    assert told[0].code == 3
    assert f"{vectors}: 2 components per voxel and no volumes" in told[0].err

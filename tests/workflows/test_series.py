"""`carl series` on files: what is written belongs together, and what can't be done is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.io.images.files import Image, read_any, write_image
from carl_cli.io.transforms.files import read_series
from tests.cli.conftest import Carl
from tests.conftest import make_grid
from tests.moving import Moving, errors, moving_head, walk

GRID = make_grid((34, 40, 30), (4.5, 4.5, 4.5))


@pytest.fixture(scope="module")
def moving() -> Moving:
    return moving_head(GRID, walk(5))


@pytest.fixture(scope="module")
def source(moving: Moving, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series") / "bold.nii.gz"
    write_image(path, moving.series)
    return path


def changed(moving: Moving, path: Path, array: np.ndarray) -> Path:
    count = array.shape[-1] if array.ndim == 4 else 1
    write_image(path, Image(array, moving.series.grid, count, channel_kind="time"))
    return path


def test_all_outputs_belong_together(
    carl: Carl, moving: Moving, source: Path, tmp_path: Path
) -> None:
    aligned, h5, table, page, record = (
        tmp_path / name for name in ("a.nii.gz", "m.h5", "m.csv", "p.html", "r.json")
    )
    named = ("-o", aligned, "--transforms", h5, "--table", table, "--report", page)
    done = carl("series", source, *named, "--json", record, "--reference", 0, "--threads", 1)
    assert done.code == 0, done.err
    transforms = read_series(h5)
    found = [errors(t.homogeneous, m) for t, m in zip(transforms, moving.truth, strict=True)]
    assert np.max(found, axis=0).tolist() < [0.2, 0.2]
    _check_aligned(aligned, source, h5)
    rows = list(csv.DictReader(table.open()))
    shift = transforms[4](np.array(GRID.centre_mm)) - GRID.centre_mm
    assert np.isclose(float(rows[4]["translation_x_mm"]), shift[0], atol=1e-5)
    kept = json.loads(record.read_text())
    displacement = [float(row["framewise_displacement_mm"]) for row in rows]
    figures = kept["series"]
    assert np.isclose(figures["framewise_displacement_mm"]["max"], max(displacement))
    assert figures["tsnr_after"] > 1.3 * figures["tsnr_before"]
    assert set(kept["outputs"]) == {"aligned", "transforms", "table", "report"}
    assert kept["inputs"]["series"]["size"] == list(GRID.size_xyz)
    assert f"tsnr {figures['tsnr_before']:.2f} -> {figures['tsnr_after']:.2f}" in done.out
    text = page.read_text()
    assert f"{figures['tsnr_before']:.1f} → {figures['tsnr_after']:.1f}" in text
    assert text.count("data:image/png") == 2
    told = carl("report", record, "-o", tmp_path / "other.html")
    assert (told.code, "record of a motion correction" in told.err) == (2, True)
    assert f"its page is {page}" in told.err.replace("\n", "")


def _check_aligned(aligned: Path, source: Path, h5: Path) -> None:
    """Each volume is SimpleITK's own resampling through the transform that was written."""
    there, before = nib.load(aligned), nib.load(source)
    assert there.get_data_dtype() == before.get_data_dtype() == np.int16
    assert there.header.get_zooms() == before.header.get_zooms()
    volume = sitk.ReadImage(str(source))[:, :, :, 3]
    low = float(sitk.GetArrayViewFromImage(volume).min())
    rigid = read_series(h5)[3]
    affine = sitk.AffineTransform(rigid.matrix.ravel().tolist(), rigid.translation.tolist())
    real = sitk.Resample(volume, volume, affine, sitk.sitkLinear, low, sitk.sitkFloat32)
    theirs = sitk.GetArrayFromImage(real).T
    assert np.abs(there.dataobj[..., 3] - theirs).max() <= 0.5 + 1e-3


def test_carl_warp_applies_all_transforms_at_once(carl: Carl, source: Path, tmp_path: Path) -> None:
    aligned, h5, warped = (tmp_path / name for name in ("a.nii.gz", "m.h5", "w.nii.gz"))
    assert carl("series", source, "-o", aligned, "--transforms", h5).code == 0
    low = min(float(read_any(source).array[..., k].min()) for k in range(5))
    assert carl("warp", source, "-t", h5, "-o", warped, "-f", low).code == 0
    ours, theirs = read_any(aligned), read_any(warped)
    assert theirs.time_step == 2.0
    inside = np.s_[6:-6, 6:-6, 6:-6]
    np.testing.assert_array_equal(theirs.array[inside], ours.array[inside])


def test_carl_warp_wants_the_series_of_the_transforms(
    carl: Carl, moving: Moving, source: Path, tmp_path: Path
) -> None:
    h5 = tmp_path / "m.h5"
    assert carl("series", source, "--transforms", h5).code == 0
    short = changed(moving, tmp_path / "short.nii.gz", moving.series.array[..., :4])
    done = carl("warp", short, "-t", h5, "-o", tmp_path / "w.nii.gz")
    assert (done.code, "4 volumes, the transforms are for 5" in done.err) == (3, True)
    done = carl("warp", source, "-t", h5, "-o", tmp_path / "w.nii.gz", "--header-only")
    assert done.code == 2
    assert not (tmp_path / "w.nii.gz").exists()


def test_the_repetition_time_keeps_its_unit(carl: Carl, source: Path, tmp_path: Path) -> None:
    """2500 ms come back as 2.5 s."""
    image = nib.load(source)
    image.header.set_zooms((*image.header.get_zooms()[:3], 2500.0))
    image.header.set_xyzt_units("mm", "msec")
    nib.save(image, tmp_path / "msec.nii.gz")
    assert carl("series", tmp_path / "msec.nii.gz", "-o", tmp_path / "a.nii.gz").code == 0
    written = nib.load(tmp_path / "a.nii.gz").header
    assert (written.get_zooms()[3], written.get_xyzt_units()[1]) == (2.5, "sec")


def test_a_volume_unlike_the_others_is_told(carl: Carl, moving: Moving, tmp_path: Path) -> None:
    array = moving.series.array.copy()
    array[..., 3] = np.random.default_rng(0).normal(400, 200, GRID.shape_zyx)
    path = changed(moving, tmp_path / "spoilt.nii.gz", array)
    done = carl("series", path, "--table", tmp_path / "m.csv")
    assert done.code == 0
    assert "Volume 3 looks unlike the others" in done.err
    assert "Volume 2" not in done.err


def test_nan_counts_as_outside_with_a_warning(
    carl: Carl, moving: Moving, source: Path, tmp_path: Path
) -> None:
    """The motion is the one without NaN, and no NaN is written."""
    array = moving.series.array.astype(np.float32)
    array[:2] = np.nan
    path = changed(moving, tmp_path / "nan.nii.gz", array)
    done = carl("series", path, "-o", tmp_path / "a.nii.gz", "--transforms", tmp_path / "m.h5")
    assert (done.code, "voxels are NaN" in done.err) == (0, True)
    assert np.isfinite(read_any(tmp_path / "a.nii.gz").array).all()
    back = np.linalg.inv(moving.truth[0])
    found = [t.homogeneous for t in read_series(tmp_path / "m.h5")]
    worst = [errors(t, m @ back) for t, m in zip(found, moving.truth, strict=True)]
    assert np.max(worst, axis=0).tolist() < [0.2, 0.2]


def refused(carl: Carl, source: Path, tmp_path: Path, *more: object) -> tuple[int, str]:
    """Exit code and error line; nothing is written, with --dry-run and without."""
    target = tmp_path / "never.nii.gz"
    results = [carl("series", source, "-o", target, *more, *dry) for dry in ([], ["--dry-run"])]
    assert results[0].code == results[1].code
    assert not target.exists()
    return results[0].code, results[0].err


def test_what_is_no_series_is_refused(
    carl: Carl, moving: Moving, source: Path, tmp_path: Path
) -> None:
    one = changed(moving, tmp_path / "one.nii.gz", moving.series.array[..., 0])
    code, said = refused(carl, one, tmp_path)
    assert (code, "one volume, a time series of two or more was expected" in said) == (3, True)
    empty = moving.series.array.copy()
    empty[..., 2] = 7
    code, said = refused(carl, changed(moving, tmp_path / "empty.nii.gz", empty), tmp_path)
    assert (code, "volume 2: every voxel is 7" in said) == (3, True)
    infinite = moving.series.array.astype(np.float32)
    infinite[0, 0, 0, 0] = np.inf
    code, said = refused(carl, changed(moving, tmp_path / "inf.nii.gz", infinite), tmp_path)
    assert (code, "infinite" in said) == (3, True)
    nothing = np.full_like(infinite, np.nan)
    code, said = refused(carl, changed(moving, tmp_path / "nan.nii.gz", nothing), tmp_path)
    assert (code, "every voxel is NaN" in said) == (3, True)


def test_a_reference_of_another_kind_is_refused(
    carl: Carl, moving: Moving, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.nii.gz"
    write_image(other, Image(moving.series.array[:-1, ..., 0], make_grid((34, 40, 29), (4, 4, 4))))
    code, said = refused(carl, source, tmp_path, "--reference", other)
    assert (code, "34 x 40 x 29 voxels, the series has 34 x 40 x 30" in said) == (3, True)
    code, said = refused(carl, source, tmp_path, "--reference", 5)
    assert (code, "has 5 volumes" in said) == (2, True)
    code, said = refused(carl, source, tmp_path, "--reference", "absent.nii.gz")
    assert (code, "no such file" in said) == (3, True)
    thin, flat = tmp_path / "thin.nii.gz", make_grid((34, 40, 2), (4, 4, 4))
    write_image(thin, Image(moving.series.array[:2], flat, 5, channel_kind="time"))
    code, said = refused(carl, thin, tmp_path)
    assert (code, "34 x 40 x 2 voxels, at least 4 along each of three" in said) == (3, True)


def test_outputs_are_checked_before_anything_is_read(carl: Carl, tmp_path: Path) -> None:
    assert carl("series", "absent.nii.gz").code == 2
    there = tmp_path / "there.nii.gz"
    there.write_bytes(b"old")
    assert carl("series", "absent.nii.gz", "-o", there).code == 7
    assert carl("series", "absent.nii.gz", "--table", tmp_path / "m.txt").code == 2
    assert carl("series", "absent.nii.gz", "--transforms", tmp_path / "m.mat").code == 2
    assert there.read_bytes() == b"old"


def test_no_output_takes_the_place_of_the_series(carl: Carl, source: Path) -> None:
    before = source.read_bytes()
    done = carl("series", source, "-o", source, "--overwrite")
    assert (done.code, "named twice" in done.err) == (2, True)
    assert source.read_bytes() == before

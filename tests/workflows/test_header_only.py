"""--header-only: the moving image as it was stored, turned onto the fixed one by its header."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.report.saved import load_run
from tests.cli.conftest import Carl
from tests.workflows.conftest import PairFiles, Register
from tests.workflows.test_outputs import array_of, shown

ROUNDING = 1.0  # of int16: two images that were rounded once each
HEADER_MM = 1e-3  # of a float32 origin and quaternion, some 200 mm from the origin
Points = list[tuple[float, ...]]


def turn(degrees: tuple[float, float, float], mm: tuple[float, float, float]) -> sitk.Transform:
    return sitk.Euler3DTransform((0.0, 0.0, 0.0), *np.deg2rad(degrees).tolist(), mm)


def places(image: sitk.Image) -> Points:
    index = np.random.default_rng(0).integers(0, image.GetSize()[:3], (50, 3)).tolist()
    return [image.TransformIndexToPhysicalPoint(place) for place in index]


def assert_turned(found: Path, stored: Path, transform: sitk.Transform) -> None:
    """Every voxel and spacing as stored; T takes where a voxel lies now to where it lay."""
    one, other = sitk.ReadImage(str(found)), sitk.ReadImage(str(stored))
    np.testing.assert_array_equal(array_of(found), array_of(stored))
    assert one.GetPixelID() == other.GetPixelID()
    np.testing.assert_allclose(one.GetSpacing(), other.GetSpacing(), rtol=1e-6)
    now = [transform.TransformPoint(point) for point in places(one)]
    np.testing.assert_allclose(now, places(other), atol=HEADER_MM)
    assert np.linalg.norm(np.subtract(places(one), places(other)), axis=1).min() > 1


@pytest.fixture(scope="module")
def folder(
    register: Register, smooth_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """t.tfm; w.nii.gz and W.nii.gz with turned headers, r.nii.gz resampled; t.json, t.html."""
    out = tmp_path_factory.mktemp("header")
    both = ("--transform", "rigid", "-o", out / "t.tfm", "--overwrite")
    register(smooth_weights, *both, "-w", out / "r.nii.gz")
    images = ("-w", out / "w.nii.gz", "-W", out / "W.nii.gz")
    pages = ("--json", out / "t.json", "--report", out / "t.html")
    register(smooth_weights, *both, *images, *pages, "--header-only")
    return out


def test_the_header_holds_the_transform(folder: Path, pair: PairFiles) -> None:
    transform = sitk.ReadTransform(str(folder / "t.tfm"))
    assert_turned(folder / "w.nii.gz", pair.moving, transform)
    assert_turned(folder / "W.nii.gz", pair.fixed, transform.GetInverse())


def test_a_viewer_shows_what_resampling_gives(folder: Path, pair: PairFiles) -> None:
    """SimpleITK's identity resampling of one is, voxel by voxel, carl's resampling of the other."""
    turned = sitk.ReadImage(str(folder / "w.nii.gz"))
    seen = sitk.GetArrayFromImage(sitk.Resample(turned, sitk.ReadImage(str(pair.fixed))))
    where = shown(pair.moving, pair.fixed, sitk.ReadTransform(str(folder / "t.tfm")))
    assert where.mean() > 0.3
    difference = np.abs(seen.astype(float) - array_of(folder / "r.nii.gz"))[where]
    assert difference.max() <= ROUNDING


def test_reports_show_it_on_the_fixed_grid(folder: Path, pair: PairFiles) -> None:
    """Read back from the record, too."""
    run = load_run(folder / "t.json", {})
    assert run.warped.grid.matches(read_image(pair.fixed).grid)
    assert np.abs(run.warped.array.astype(float) - array_of(folder / "r.nii.gz")).max() <= ROUNDING


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-w", "w.nii.gz"), "with --transform deformable"),
        (("-w", "w.nii.gz", "--transform", "affine"), "with --transform affine"),
        (("-o", "t.tfm", "--transform", "rigid"), "without a warped image"),
    ],
)
def test_what_no_header_can_hold_is_refused(
    carl: Carl, pair: PairFiles, identity_weights: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    line = ("register", *pair[:2], "--weights", identity_weights, "--header-only")
    outcome = carl(*line, *options)
    assert outcome.code == 2
    assert f"--header-only was given {said}" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_warp_turns_headers_too(
    carl: Carl, any_grid: Grid, make_image: Callable[..., Image], tmp_path: Path
) -> None:
    """By a chain and an inverse, of every hard geometry."""
    image, first, second, out = (tmp_path / n for n in ("i.nii.gz", "a.tfm", "b.tfm", "o.nii.gz"))
    write_image(image, make_image(any_grid, "int16"))
    a, b = turn((20, -35, 50), (7, -12, 30)), turn((-5, 80, 10), (-3, 2, 11))
    sitk.WriteTransform(a, str(first))
    sitk.WriteTransform(b, str(second))
    chain = ("-t", first, "-t", f"[{second},1]")
    assert carl("warp", image, *chain, "--header-only", "-o", out).code == 0
    assert_turned(out, image, sitk.CompositeTransform([b.GetInverse(), a]))


def test_warp_keeps_every_volume(
    carl: Carl, grids: dict[str, Grid], make_image: Callable[..., Image], tmp_path: Path
) -> None:
    write_image(tmp_path / "i.nii.gz", make_image(grids["oblique"]))
    one = sitk.ReadImage(str(tmp_path / "i.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([one, one * 2]), str(tmp_path / "series.nii.gz"))
    transform = turn((20, -35, 50), (7, -12, 30))
    sitk.WriteTransform(transform, str(tmp_path / "t.tfm"))
    line = ("warp", tmp_path / "series.nii.gz", "-t", tmp_path / "t.tfm", "--header-only")
    assert carl(*line, "-o", tmp_path / "o.nii.gz").code == 0
    found = sitk.ReadImage(str(tmp_path / "o.nii.gz"))
    sitk.WriteImage(found[:, :, :, 1], str(tmp_path / "second.nii.gz"))
    sitk.WriteImage(one * 2, str(tmp_path / "double.nii.gz"))
    assert_turned(tmp_path / "second.nii.gz", tmp_path / "double.nii.gz", transform)


@pytest.mark.parametrize("matrix", [np.diag([1.001, 1, 1]), np.diag([-1.0, 1, 1])])
def test_warp_refuses_what_is_not_rigid(
    carl: Carl, grids: dict[str, Grid], make_image: Callable[..., Image], tmp_path: Path,
    matrix: np.ndarray,
) -> None:  # fmt: skip
    write_image(tmp_path / "i.nii.gz", make_image(grids["plain"]))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix.ravel().tolist())
    sitk.WriteTransform(affine, str(tmp_path / "t.mat"))
    line = ("warp", tmp_path / "i.nii.gz", "-t", tmp_path / "t.mat", "--header-only")
    outcome = carl(*line, "-o", tmp_path / "o.nii.gz")
    assert (outcome.code, (tmp_path / "o.nii.gz").exists()) == (2, False)
    assert "scales, shears or mirrors" in outcome.err
    sized = carl(*line, "--spacing", 2, "-o", tmp_path / "o.nii.gz")
    assert sized.code == 2
    assert "--header-only was given with --spacing" in sized.err

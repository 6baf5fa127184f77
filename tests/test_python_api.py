"""`import carl_cli as carl` as a user writes it: images of any library, weights by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import carl_cli as carl
from carl_cli.errors import InputError, UsageError, WeightsError
from carl_cli.workflows.demo import DemoFiles, write_phantom
from carl_cli.workflows.phantom import make_phantom
from tests.cli.weights_folder import untrained_weights

TURNED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    files = DemoFiles.within(tmp_path_factory.mktemp("pair"))
    write_phantom(make_phantom(voxel_mm=12.0), files)
    return files


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> carl.Weights:
    return carl.load_weights(untrained_weights(tmp_path_factory.mktemp("weights") / "small"))


@pytest.fixture(scope="module")
def result(files: DemoFiles, weights: carl.Weights) -> carl.Registration:
    labels = {"fixed_seg": files.fixed_labels, "moving_seg": files.moving_labels}
    return carl.register(files.fixed, files.moving, weights, **labels)


@pytest.fixture
def image() -> carl.Image:
    """Turned by 90 degrees, with another spacing along each axis."""
    array = np.random.default_rng(0).integers(-99, 99, (4, 5, 6)).astype(np.int16)
    return carl.Image(array, carl.Grid((6, 5, 4), (1.0, 2.0, 3.0), (7.0, -8.0, 9.0), TURNED))


def assert_same(found: carl.Image, expected: carl.Image) -> None:
    np.testing.assert_array_equal(found.array, expected.array)
    assert found.array.dtype == expected.array.dtype
    assert found.grid.size_xyz == expected.grid.size_xyz
    np.testing.assert_allclose(found.grid.corners_mm(), expected.grid.corners_mm(), atol=1e-4)


def test_an_image_of_nibabel_is_ours_and_back(image: carl.Image, tmp_path: Path) -> None:
    """nibabel's array is (x, y, z) and its affine RAS; the file says the same as the object."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.grid.index_to_lps
    theirs = nibabel.Nifti1Image(image.array.T, affine)
    assert_same(carl.as_image(theirs), image)
    back = carl.to_nibabel(image)
    np.testing.assert_allclose(back.affine, affine)
    nibabel.save(back, tmp_path / "image.nii.gz")
    assert_same(carl.as_image(tmp_path / "image.nii.gz"), image)


def test_an_image_of_simpleitk_is_ours(image: carl.Image) -> None:
    theirs = sitk.GetImageFromArray(image.array)
    theirs.SetSpacing((1.0, 2.0, 3.0))
    theirs.SetOrigin((7.0, -8.0, 9.0))
    theirs.SetDirection(TURNED)
    assert_same(carl.as_image(theirs), image)


@pytest.mark.slow  # importing all of itk takes its time
def test_an_image_of_itk_is_ours(image: carl.Image) -> None:
    itk = pytest.importorskip("itk")
    theirs = itk.image_from_array(image.array)
    theirs.SetSpacing((1.0, 2.0, 3.0))
    theirs.SetOrigin((7.0, -8.0, 9.0))
    theirs.SetDirection(itk.matrix_from_array(np.reshape(TURNED, (3, 3))))
    assert_same(carl.as_image(theirs), image)


def test_an_array_needs_a_grid_of_its_shape(image: carl.Image) -> None:
    assert_same(carl.as_image((image.array, image.grid)), image)
    with pytest.raises(InputError, match="an array alone does not say where its voxels lie"):
        carl.as_image(image.array)
    with pytest.raises(InputError, match=r"an array of shape \(6, 5, 4\), the grid wants \(4, 5"):
        carl.as_image((image.array.T, image.grid))
    with pytest.raises(InputError, match="dict is no image that carl knows"):
        carl.as_image({})


def test_paths_objects_and_arrays_give_the_same_transform(
    files: DemoFiles, weights: carl.Weights, result: carl.Registration
) -> None:
    fixed = nibabel.load(files.fixed)
    moving = carl.read_image(files.moving)
    points = np.array([[10.0, -20.0, 30.0], [0.0, 40.0, -5.0]])
    for other in (sitk.ReadImage(str(files.moving)), (moving.array, moving.grid)):
        again = carl.register(fixed, other, weights)
        np.testing.assert_allclose(again.forward(points), result.forward(points), atol=1e-3)


def test_warped_is_the_moving_image_seen_through_the_transform(
    files: DemoFiles, result: carl.Registration
) -> None:
    """SimpleITK's resampling with the same transform is the referee."""
    fixed, moving = (sitk.ReadImage(str(f), sitk.sitkFloat64) for f in (files.fixed, files.moving))
    low = float(sitk.GetArrayViewFromImage(moving).min())
    transform = carl.to_sitk_transform(result.forward, cover=result.fixed.grid)
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, low))
    gap = np.abs(result.warped.array - theirs)
    assert np.quantile(gap, 0.99) <= 0.6  # integers are rounded; borders differ by rule
    assert result.warped.grid.matches(result.fixed.grid)
    there = result.warp(files.fixed, inverse=True)
    assert there.grid.matches(result.moving.grid)


def test_labels_stay_labels(files: DemoFiles, result: carl.Registration) -> None:
    moved = result.warp(files.moving_labels, interpolator="genericlabel")
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(files.moving_labels)))
    assert set(np.unique(moved.array)) <= set(np.unique(stored))
    assert moved.array.shape == result.fixed.array.shape


def test_metrics_are_those_of_the_command(
    files: DemoFiles, result: carl.Registration, weights: carl.Weights, tmp_path: Path
) -> None:
    from carl_cli.cli.app import main

    words = ["register", files.fixed, files.moving, "--weights", weights.source, "-q"]
    words += ["--fixed-seg", files.fixed_labels, "--moving-seg", files.moving_labels]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in [*words, "--json", tmp_path / "run.json"]])
    assert not stop.value.code
    told = json.loads((tmp_path / "run.json").read_text())["metrics"]
    assert result.metrics.folded_percent == pytest.approx(told["folded_percent"], abs=1e-9)
    after = told["similarity_after"]["lncc"]
    assert result.metrics.similarity_after.lncc == pytest.approx(after, abs=1e-6)
    dice = np.mean([s["dice"] for s in told["structures"] if s["dice"] is not None])
    assert result.metrics.mean_dice == pytest.approx(dice, abs=1e-9)


def test_save_writes_what_it_names(result: carl.Registration, tmp_path: Path) -> None:
    names = {"warped": "w.nii.gz", "jacobian": "j.nii.gz", "report": "r.html"}
    paths = {role: tmp_path / name for role, name in names.items()}
    assert result.save(tmp_path / "t.h5", **paths) == [tmp_path / "t.h5", *paths.values()]
    point = (10.0, -20.0, 30.0)
    theirs = sitk.ReadTransform(str(tmp_path / "t.h5")).TransformPoint(point)
    np.testing.assert_allclose(theirs, result.forward(np.array([point]))[0], atol=0.02)
    written = carl.read_image(tmp_path / "w.nii.gz").array
    np.testing.assert_array_equal(written, result.warped.array)
    assert "mean Dice" in (tmp_path / "r.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="no output 'picture'"):
        result.save(picture="p.png")
    with pytest.raises(UsageError, match="no output was asked for"):
        result.save()


def test_the_repr_is_short_and_the_notebook_sees_figures(result: carl.Registration) -> None:
    assert re.fullmatch(
        r"Registration\(fixed 30 x \d+ x \d+, moving .*, weights untrained, [\d.]+ s\)",
        repr(result),
    )
    html = result._repr_html_()
    assert f"{result.metrics.similarity_after.lncc:.3f}" in html
    assert "data:image/png;base64,iVBORw0KGgo" in html


def test_weights_go_by_name() -> None:
    assert carl.available()[0] == "carl-base"
    assert carl.load_weights("carl-base").config.name == "carl-base"
    with pytest.raises(WeightsError, match="no weights 'carl-bass'"):
        carl.load_weights("carl-bass")


def test_choices_are_the_options_by_name(files: DemoFiles, weights: carl.Weights) -> None:
    affine = carl.register(files.fixed, files.moving, weights, affine_only=True)
    (part,) = affine.forward.parts
    assert isinstance(part, carl.AffineTransform)
    with pytest.raises(UsageError, match="no option 'initt'"):
        carl.register(files.fixed, files.moving, weights, initt="rigid")
    assert (affine.losses, affine.io_metric) == ([], "")
    few = carl.InstanceOptions(steps=2, scope="field", metric="lncc")
    fitted = carl.register(files.fixed, files.moving, weights, io=True, instance=few)
    assert fitted.io_metric == "lncc"
    assert fitted.losses[-1] < fitted.losses[0]

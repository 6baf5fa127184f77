"""The demo's files say what the phantom is, and its error is a distance to the truth."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.transforms import AffineTransform, DisplacementField, identity
from carl_cli.workflows.demo import DemoFiles, true_errors_mm, write_phantom
from carl_cli.workflows.phantom import PhantomPair, make_phantom


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return make_phantom(seed=5, voxel_mm=9.0)


@pytest.fixture(scope="module")
def files(pair: PhantomPair, tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    files = DemoFiles.within(tmp_path_factory.mktemp("demo"))
    write_phantom(pair, files)
    return files


def test_files_place_voxels_where_the_phantom_has_them(pair: PhantomPair, files: DemoFiles) -> None:
    """By nibabel: RAS position of a voxel, and the value there."""
    for path, image in ((files.fixed, pair.fixed), (files.moving_labels, pair.moving_labels)):
        loaded = nibabel.load(path)
        ras = loaded.affine @ [3, 5, 7, 1]
        np.testing.assert_allclose(
            ras[:3] * [-1, -1, 1], image.grid.points_mm()[7, 5, 3], atol=1e-4
        )
        assert np.asarray(loaded.dataobj)[3, 5, 7] == image.array[7, 5, 3]
        assert loaded.get_data_dtype() == image.array.dtype


def test_the_truth_resamples_the_moving_labels_onto_the_fixed(
    pair: PhantomPair, files: DemoFiles
) -> None:
    """SimpleITK applies the written truth; a tenth of an organ's voxels lie on its edge."""
    field = sitk.ReadImage(str(files.truth), sitk.sitkVectorFloat64)
    warped = sitk.Resample(
        sitk.ReadImage(str(files.moving_labels)),
        sitk.ReadImage(str(files.fixed)),
        sitk.DisplacementFieldTransform(field),
        sitk.sitkNearestNeighbor,
    )
    fixed, seen = pair.fixed_labels.array, sitk.GetArrayFromImage(warped)
    unmoved = sitk.GetArrayFromImage(
        sitk.Resample(
            sitk.ReadImage(str(files.moving_labels)),
            sitk.ReadImage(str(files.fixed)),
            sitk.Transform(),
            sitk.sitkNearestNeighbor,
        )
    )
    organ = (fixed > 1) & (seen > 0)
    assert np.mean(fixed[organ] == seen[organ]) > 0.85
    assert np.mean(fixed[organ] == unmoved[organ]) < 0.6


def test_the_true_transform_has_no_error(pair: PhantomPair) -> None:
    """The truth at the fixed voxels themselves, so that linear interpolation adds nothing."""
    points = pair.fixed.grid.points_mm()
    field = DisplacementField(pair.fixed.grid, (pair.truth(points) - points).astype(np.float32))
    errors_mm = true_errors_mm(pair, field)
    assert errors_mm.max() < 1e-4
    assert len(errors_mm) > 500


def test_a_known_error_is_measured(pair: PhantomPair) -> None:
    """Truth followed by a shift of length 7 mm is wrong by 7 mm everywhere."""
    points = pair.fixed.grid.points_mm()
    field = DisplacementField(pair.fixed.grid, (pair.truth(points) - points).astype(np.float32))
    shift = AffineTransform(np.eye(3), np.array([2.0, -3.0, 6.0]))
    np.testing.assert_allclose(true_errors_mm(pair, shift @ field), 7.0, atol=1e-4)


def test_without_registration_the_error_is_the_true_displacement(pair: PhantomPair) -> None:
    errors_mm = true_errors_mm(pair, identity(3))
    landmarks = np.linalg.norm(pair.moving_points - pair.fixed_points, axis=1)
    assert np.median(errors_mm) == pytest.approx(np.median(landmarks), rel=0.2)

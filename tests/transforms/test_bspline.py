"""Cubic B-splines against SimpleITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.io.transforms.files import (
    from_sitk_transform,
    read_transform,
    to_sitk_transform,
    write_transform,
)
from carl_cli.transforms import BSplineTransform
from tests.conftest import rotation


def spline(dimension: int) -> sitk.BSplineTransform:
    result = sitk.BSplineTransform(dimension, 3)
    result.SetTransformDomainOrigin((5.0, 6.0, 7.0)[:dimension])
    result.SetTransformDomainPhysicalDimensions((60.0, 50.0, 40.0)[:dimension])
    result.SetTransformDomainMeshSize((5, 4, 3)[:dimension])
    if dimension == 3:
        result.SetTransformDomainDirection(rotation((10, -20, 30)).ravel())
    rng = np.random.default_rng(0)
    result.SetParameters((2 * rng.normal(size=len(result.GetParameters()))).tolist())
    return result


def domain_points(ours: BSplineTransform) -> np.ndarray:
    points = ours.sampling_grid.points_mm().reshape(-1, ours.dimension)
    some = points[:: max(1, len(points) // 400)]
    return (some - some.mean(axis=0)) * 0.98 + some.mean(axis=0)


@pytest.mark.parametrize("dimension", [2, 3])
def test_same_points_as_simpleitk_both_ways(dimension: int, tmp_path: Path) -> None:
    theirs = spline(dimension)
    ours = from_sitk_transform(theirs)
    assert isinstance(ours, BSplineTransform)
    points = domain_points(ours)
    expected = np.array([theirs.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(ours(points), expected, atol=1e-12)
    back = to_sitk_transform(ours)
    np.testing.assert_allclose(
        [back.TransformPoint(p.tolist()) for p in points], expected, atol=1e-12
    )
    write_transform(tmp_path / "spline.h5", ours)
    np.testing.assert_array_equal(read_transform(tmp_path / "spline.h5")(points), ours(points))


def test_the_gradient_is_the_derivative() -> None:
    ours = from_sitk_transform(spline(3))
    assert isinstance(ours, BSplineTransform)
    points, step = domain_points(ours), 1e-4
    _, gradient = ours.displacement_and_gradient_at(points)
    numeric = np.stack(
        [
            (ours.displacement_at(points + step * e) - ours.displacement_at(points - step * e))
            / (2 * step)
            for e in np.eye(3)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_the_inverse_undoes_it() -> None:
    ours = from_sitk_transform(spline(3))
    points = domain_points(ours)
    residual = np.linalg.norm(ours(ours.inverse()(points)) - points, axis=-1)
    assert np.percentile(residual, 99) < 2e-3


def test_a_dense_file_is_close_to_the_spline(tmp_path: Path) -> None:
    ours = from_sitk_transform(spline(3))
    write_transform(tmp_path / "dense.nii.gz", ours)
    points = domain_points(ours)
    gap = np.linalg.norm(read_transform(tmp_path / "dense.nii.gz")(points) - ours(points), axis=-1)
    assert gap.max() < 0.05

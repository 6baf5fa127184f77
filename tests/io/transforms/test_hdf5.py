"""Composites written with h5py: ITK's layout, the same bytes at any time, and every reader."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import ants
import h5py
import nitransforms
import numpy as np
import pandas
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.transforms import AffineTransform, BSplineTransform, Transform, dense, spaced_grid
from tests.conftest import GRIDS
from tests.fields import constant_field, field_on, inner_points
from tests.measured import assert_close

TURN_2D = AffineTransform(np.array([[0.9, 0.1], [-0.2, 1.1]]), np.array([3.0, -2.0]))
GRID_2D = Grid((20, 15), (1.0, 2.0), (3.0, 4.0), (0.0, 1.0, -1.0, 0.0))
FLIP = np.array([-1.0, -1.0, 1.0])


def by_simpleitk(path: Path, points: np.ndarray) -> np.ndarray:
    transform = sitk.ReadTransform(str(path))
    return np.array([transform.TransformPoint(p.tolist()) for p in points])


def by_ants(path: Path, points: np.ndarray) -> np.ndarray:
    axes = list("xyz")[: points.shape[1]]
    table = pandas.DataFrame(points, columns=axes)
    return ants.apply_transforms_to_points(len(axes), table, [str(path)])[axes].to_numpy()


def by_nitransforms(path: Path, points: np.ndarray) -> np.ndarray:
    return nitransforms.manip.load(path, fmt="itk").map(points * FLIP) * FLIP


NAMES = {by_ants: "ANTs", by_simpleitk: "SimpleITK", by_nitransforms: "nitransforms"}


def tolerance_mm(referee: object, points: np.ndarray) -> float:
    """1e-6, and the rounding of those who hold points or displacements in single precision."""
    single = float(np.spacing(np.float32(np.abs(points).max())))
    return 1e-6 + (2 * single if referee in (by_ants, by_nitransforms) else 0)


@pytest.mark.parametrize("precision", ["float", "double"])
@pytest.mark.parametrize("referee", [by_simpleitk, by_ants, by_nitransforms, None])
@pytest.mark.parametrize("shape", sorted(GRIDS))
def test_every_reader_finds_the_same_map(
    shape: str, referee: Callable[..., np.ndarray] | None, precision: str, tmp_path: Path,
    affine: AffineTransform,
) -> None:  # fmt: skip
    """At voxels, where nobody interpolates, through an affine as well."""
    field, path = field_on(GRIDS[shape]), tmp_path / "chain.h5"
    write_transform(path, affine @ field, precision=precision)  # type: ignore[arg-type]
    points = GRIDS[shape].points_mm()[2:-2:5, 2:-2:5, 2:-2:5].reshape(-1, 3)
    mapped = referee(path, points) if referee else read_transform(path)(points)
    expected = (affine @ field)(points)
    name = NAMES[referee] if referee else "carl"
    most = tolerance_mm(referee, expected)
    file = f"ITK composite (.h5, {precision})"
    assert_close(mapped, expected, most, file=file, way="written", referee=name)


def test_between_coarse_voxels_nitransforms_has_a_map_of_its_own(tmp_path: Path) -> None:
    """It interpolates mapped positions by cubic splines, mirrored at the border; ITK, ANTs and we
    displacements, linearly: on a field of 6 mm up to 0.9 mm apart, with the same file."""
    grid, path = GRIDS["oblique"], tmp_path / "coarse.h5"
    field = dense(field_on(grid), spaced_grid(grid, 6.0))
    write_transform(path, field)
    points = grid.points_mm()[3:-3, 3:-3, 3:-3].reshape(-1, 3)
    np.testing.assert_allclose(by_simpleitk(path, points), field(points), atol=1e-5)
    index = apply_affine(field.grid.lps_to_index, points)
    positions = field.grid.points_mm() + field.displacement_mm
    by_splines = [map_coordinates(positions[..., k], index.T[::-1], order=3) for k in range(3)]
    theirs = by_nitransforms(path, points)
    np.testing.assert_allclose(theirs, np.stack(by_splines, axis=-1), atol=1e-3)
    assert np.linalg.norm(theirs - field(points), axis=1).max() > 0.1


@pytest.mark.parametrize("referee", [by_simpleitk, by_ants])
def test_in_2d(referee: Callable[..., np.ndarray], tmp_path: Path) -> None:
    chain, points = TURN_2D @ constant_field(GRID_2D, (6.0, -4.0)), inner_points(GRID_2D, 20, 2.0)
    write_transform(tmp_path / "c.h5", chain)
    mapped, expected = referee(tmp_path / "c.h5", points), chain(points)
    np.testing.assert_allclose(mapped, expected, rtol=0, atol=tolerance_mm(referee, expected))


@pytest.mark.parametrize("referee", [by_simpleitk, by_ants])
@pytest.mark.parametrize("precision", ["float", "double"])
def test_a_spline(referee: Callable[..., np.ndarray], precision: str, tmp_path: Path) -> None:
    grid = Grid((9, 8, 7), (15.0, 16.0, 18.0), (-60.0, -50.0, -55.0), GRIDS["oblique"].direction)
    values = np.random.default_rng(0).normal(0, 3, (*grid.shape_zyx, 3))
    spline: Transform = BSplineTransform(grid, values)
    write_transform(tmp_path / "s.h5", spline, precision=precision)  # type: ignore[arg-type]
    points = inner_points(grid, 30, 2.0)
    mapped, expected = referee(tmp_path / "s.h5", points), spline(points)
    np.testing.assert_allclose(mapped, expected, rtol=0, atol=tolerance_mm(referee, expected))


@pytest.mark.parametrize("precision", ["float", "double"])
def test_same_bytes_at_any_time(
    tmp_path: Path, precision: str, grids: dict[str, Grid], affine: AffineTransform
) -> None:
    transform = affine @ field_on(grids["oblique"])
    first, second = tmp_path / "1.h5", tmp_path / "2.h5"
    write_transform(first, transform, precision=precision)  # type: ignore[arg-type]
    time.sleep(1.1)  # HDF5 notes whole seconds
    write_transform(second, transform, precision=precision)  # type: ignore[arg-type]
    assert first.read_bytes() == second.read_bytes()
    with h5py.File(first) as file:
        objects: list[h5py.HLObject] = []
        file.visititems(lambda _, item: objects.append(item))
        assert len(objects) > 8
        assert {h5py.h5g.get_objinfo(item.id).mtime for item in objects} == {0}

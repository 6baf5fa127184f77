"""Volumes of a series whose motion is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from carl_cli.geometry import Array
from carl_cli.io.images.files import Image
from carl_cli.registration.realign import Realigner
from carl_cli.registration.series import realign, volume_of
from carl_cli.transforms import identity
from carl_cli.transforms.linear import RigidTransform
from carl_cli.weights.locate import chosen_weights
from tests.conftest import make_grid, rotation
from tests.moving import Moving, errors, head, moving_head, rigid, walk

GRID = make_grid((44, 52, 36), (3.5, 3.5, 3.5))
OBLIQUE = make_grid((40, 38, 36), (4.0, 4.5, 4.0), (3.0, -2.0, 1.0), rotation((12, -20, 33)))
MOST_MM, MOST_DEGREES = 0.2, 0.2


@pytest.fixture(scope="module")
def moving() -> Moving:
    return moving_head(GRID, walk(8))


def worst(found: list[Array], true: list[Array]) -> tuple[float, float]:
    each = [errors(a, b) for a, b in zip(found, true, strict=True)]
    return max(mm for mm, _ in each), max(degrees for _, degrees in each)


@pytest.mark.parametrize("reference", [None, 0, 5])
def test_a_rigid_motion_is_found(moving: Moving, reference: int | None) -> None:
    found = realign(moving.series, reference)
    back = np.linalg.inv(moving.truth[reference or 0])
    matrices = [each.homogeneous for each in found.motion]
    assert worst([np.eye(4)] * 8, moving.truth) > (3, 3)
    assert worst(matrices, [each @ back for each in moving.truth]) < (MOST_MM, MOST_DEGREES)
    assert all(isinstance(each, RigidTransform) for each in found.motion)
    assert min(found.likeness) > 0.99


def test_on_an_oblique_grid_with_a_sudden_large_motion() -> None:
    jump = (9.0, -7.0, 6.0, 8.0, -6.0, 9.0)
    moving = moving_head(OBLIQUE, walk(4, jump))
    matrices = [each.homogeneous for each in realign(moving.series, 0).motion]
    assert worst(matrices, moving.truth) < (MOST_MM, MOST_DEGREES)


def test_an_affine_motion_is_found(moving: Moving) -> None:
    """Scales and shears to a third of a percent: 0.2 mm at the surface."""
    stretch = np.diag([1.03, 0.98, 1.02, 1.0])
    stretch[0, 1] = 0.02
    motion = [np.eye(4), stretch @ rigid(np.array([1.0, 2, -1, 1, -2, 1])), np.eye(4), stretch]
    series = moving_head(GRID, motion).series
    found = realign(series, 0, "affine").motion
    for each, true in zip(found, motion, strict=True):
        np.testing.assert_allclose(each.homogeneous[:3, :3], true[:3, :3], atol=0.003)
        np.testing.assert_allclose(each.translation, true[:3, 3], atol=MOST_MM)


def test_interpolation_changes_no_size() -> None:
    """Between voxels it smooths most: an affine fit of a volume there stays within 0.1 %, which is
    0.08 mm at the surface."""
    half = rigid(np.array([1.75, 1.75, 1.75, 0, 0, 0]))
    series = moving_head(GRID, [np.eye(4), half], noise=0.0).series
    realigner = Realigner(volume_of(series, 0), "affine")
    found = realigner.find(volume_of(series, 1), [identity(3)]).transform
    np.testing.assert_allclose(found.matrix, np.eye(3), atol=1e-3)


def test_onto_an_image_that_lies_elsewhere(moving: Moving) -> None:
    """Its header puts it 150 mm away, and the head is turned in it."""
    turned = rigid(np.array([1.0, 2, 1, -3, 2, 4]))
    there = moving_head(GRID, [turned, turned]).series
    away = np.array([150.0, 0, 0])
    origin = tuple((np.array(GRID.origin_mm) + away).tolist())
    image = Image(there.array[..., 0], replace(GRID, origin_mm=origin), source="sbref")
    found = realign(moving.series, image)
    back = np.linalg.inv(turned)
    back[:3, 3] -= back[:3, :3] @ away
    matrices = [each.homogeneous for each in found.motion]
    assert worst(matrices, [each @ back for each in moving.truth]) < (MOST_MM, MOST_DEGREES)
    assert found.reference_likeness > 0.99


def test_threads_change_no_bit(moving: Moving) -> None:
    few = replace(
        moving.series, array=np.ascontiguousarray(moving.series.array[..., :3]), channels=3
    )
    threads, found = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append([each.homogeneous for each in realign(few, None).motion])
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(*found)


def breathed(points: Array, share: float) -> Array:
    """Points of a volume → the anatomy at rest: a part of it is 8 mm lower at full breath."""
    wide = np.exp(-(((points - [5, -10, -15]) / [45, 50, 40]) ** 2).sum(-1))
    return points + share * wide[..., None] * np.array([0, 3.0, 8.0])


@pytest.mark.slow
def test_a_deformable_motion_is_found() -> None:
    """Mean error in the foreground from 1.7 and 2.6 mm to a third of it, of voxels of 5 mm."""
    grid, random = make_grid((40, 40, 32), (5.0, 5.0, 4.5)), np.random.default_rng(0)
    shares = [0.0, 0.6, 1.0, 0.6]
    volumes = [head(breathed(grid.points_mm(), share)) for share in shares]
    noisy = np.stack(volumes, -1) + random.normal(0, 15, (*grid.shape_zyx, 4))
    series = Image(noisy.astype(np.float32), grid, 4, "breath", "time")
    found = realign(series, 0, weights=chosen_weights("carl-base", "cpu"))
    points = grid.points_mm()[::2, ::2, ::2].reshape(-1, 3)
    points = points[head(points) > 400]

    def error_mm(transform: object, share: float) -> float:
        return float(np.linalg.norm(breathed(transform(points), share) - points, axis=1).mean())

    before, rigidly, bent = (
        [error_mm(each, share) for each, share in zip(maps, shares, strict=True)]
        for maps in ([identity(3)] * 4, found.motion, found.transforms)
    )
    assert before[2] > 2.5
    assert rigidly[2] > 1.2
    assert max(bent) < 0.8
    assert bent[2] < before[2] / 3

"""The search of a rotation: its set covers all rotations, its places are right, it finds turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_image
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from carl_cli.registration.register import RegistrationOptions, register
from carl_cli.registration.rotation import _places_mm, rotations, search_rotation, searched_rule
from carl_cli.transforms import AffineTransform
from carl_cli.weights.folder import Weights, load_weights
from carl_cli.weights.locate import locate
from carl_cli.weights.registry import DEFAULT
from carl_cli.workflows.phantom import make_phantom
from tests.cli.weights_folder import untrained_weights
from tests.conftest import rotation

UPSIDE_DOWN = np.diag([-1.0, -1.0, 1.0])
ON_ITS_SIDE = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(locate(DEFAULT))


def degrees(turn: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def turned(image: Image, turn: np.ndarray) -> tuple[Image, AffineTransform]:
    """The same voxels under a header turned about their middle, and the motion."""
    grid, middle = image.grid, image.grid.centre_mm
    motion = AffineTransform(turn, middle - turn @ middle)
    origin = tuple(map(float, motion(np.array(grid.origin_mm))))
    direction = tuple(map(float, (turn @ grid.direction_matrix).ravel()))
    return replace(image, grid=replace(grid, origin_mm=origin, direction=direction)), motion


def test_the_set_of_rotations() -> None:
    """72 of them, proper and distinct; the right angles are whole numbers; none is far away."""
    found = np.stack(rotations(3))
    assert len(found) == 72
    np.testing.assert_array_equal(found[0], np.eye(3))
    squares = found @ found.transpose(0, 2, 1)
    np.testing.assert_allclose(squares, np.broadcast_to(np.eye(3), (72, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1)
    whole = [m for m in found if np.allclose(m, np.rint(m), atol=1e-9)]
    assert len(whole) == 24
    traces = np.einsum("aij,bij->ab", found, found)
    assert (traces > 3 - 1e-9).sum() == 72


def test_none_is_further_than_45_degrees_away() -> None:
    """The 60 alone leave 44.48 degrees at most (the 600-cell); random rotations can't say more."""
    random = np.random.default_rng(0)
    quaternions = random.normal(size=(4000, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    w, x, y, z = quaternions.T
    matrices = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    traces = np.einsum("aij,bij->ab", matrices, np.stack(rotations(3))).max(axis=1)
    furthest = np.degrees(np.arccos((traces.min() - 1) / 2))
    assert 30 < furthest < 44.5


def test_rotations_of_the_plane() -> None:
    found = np.stack(rotations(2))
    np.testing.assert_array_equal(found[0], np.eye(2))
    angles = np.degrees(np.arctan2(found[:, 1, 0], found[:, 0, 0])) % 360
    np.testing.assert_allclose(np.sort(angles), np.arange(0, 360, 15), atol=1e-9)


@pytest.mark.parametrize("align_corners", [True, False])
def test_places_of_coarse_voxels(align_corners: bool) -> None:
    """Pooled by 4: a coarse voxel's place is the mean of its 64 voxels' (centres), or the first
    and last coincide (corners). Padding goes on at the same pace."""
    direction = tuple(rotation((10, 20, 30)).ravel())
    grid = Grid((16, 12, 8), (2.0, 3.0, 4.0), (5.0, -7.0, 9.0), direction)
    shape = (2, 3, 4)
    places = _places_mm(grid, shape, 0, align_corners).reshape(*shape, 3)
    points = grid.points_mm()
    if align_corners:
        np.testing.assert_allclose(places[0, 0, 0], points[0, 0, 0])
        np.testing.assert_allclose(places[-1, -1, -1], points[-1, -1, -1])
    else:
        blocks = points.reshape(2, 4, 3, 4, 4, 4, 3).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(places, blocks)
    padded = _places_mm(grid, shape, 2, align_corners).reshape(6, 7, 8, 3)
    np.testing.assert_allclose(padded[2:-2, 2:-2, 2:-2], places)
    np.testing.assert_allclose(np.diff(padded, n=2, axis=2), 0, atol=1e-9)


def test_the_grid_of_the_search() -> None:
    small = searched_rule(PreprocessRule(grid_rule="physical"))
    assert small.max_voxels == 48**3
    stretched = PreprocessRule(grid_rule="stretch", shape_zyx=(175, 175, 100))
    assert searched_rule(stretched).shape_zyx == (48, 48, 27)
    tiny = PreprocessRule(grid_rule="stretch", shape_zyx=(32, 32, 16))
    assert searched_rule(tiny).shape_zyx == (32, 32, 16)


@pytest.mark.parametrize(
    "turn",
    [
        pytest.param(ON_ITS_SIDE, id="on its side"),
        pytest.param(UPSIDE_DOWN, id="upside down", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_header_is_found(weights: Weights, turn: np.ndarray) -> None:
    """Of a right angle less than 15 degrees remain, the phantom's own rotation included."""
    phantom = make_phantom(seed=2, voxel_mm=9.0)
    moving, motion = turned(phantom.moving, turn)
    pair = prepare_pair(phantom.fixed, moving, searched_rule(weights.config.preprocess))
    found = search_rotation(pair, weights)
    assert degrees(motion.matrix.T @ found.matrix) < 15
    middle = phantom.fixed_points.mean(axis=0)
    expected = motion(phantom.truth(phantom.fixed_points)).mean(axis=0)
    assert np.linalg.norm(found(middle) - expected) < 40


def test_register_with_a_turned_header(weights: Weights) -> None:
    """180 degrees: lost without --init rigid, as good as unturned with it."""
    rule = weights.config.preprocess.model_copy(update={"max_voxels": 48**3})
    small = weights.prepared_by(rule)
    phantom = make_phantom(seed=2, voxel_mm=9.0)
    moving, motion = turned(phantom.moving, UPSIDE_DOWN)
    partners = motion(phantom.truth(phantom.fixed_points))

    def error_mm(moving: Image, expected: np.ndarray, init: str) -> float:
        options = RegistrationOptions(init=init)  # type: ignore[arg-type]
        found = register(phantom.fixed, moving, small, options).forward(phantom.fixed_points)
        return float(np.linalg.norm(found - expected, axis=1).mean())

    straight = error_mm(phantom.moving, phantom.truth(phantom.fixed_points), "none")
    assert error_mm(moving, partners, "none") > 60
    assert error_mm(moving, partners, "rigid") < straight + 5


def test_weights_without_attention_start_with_a_first_pass(identity_weights: Path) -> None:
    """A network that finds nothing: the rigid part of the identity, and no search."""
    phantom = make_phantom(seed=1, voxel_mm=12.0)
    seen: list[str] = []
    weights = load_weights(identity_weights)
    options = RegistrationOptions(init="rigid")
    register(phantom.fixed, phantom.moving, weights, options, lambda stage, *_: seen.append(stage))
    assert "rigid initialisation" in seen
    assert "search of the rotation" not in seen


def test_the_same_start_each_time(tmp_path: Path) -> None:
    """No chance is involved, and an untrained network gives a proper rigid transform."""
    weights = load_weights(untrained_weights(tmp_path / "weights"))
    phantom = make_phantom(seed=1, voxel_mm=15.0)
    pair = prepare_pair(phantom.fixed, phantom.moving, searched_rule(weights.config.preprocess))
    first, second = (search_rotation(pair, weights) for _ in range(2))
    np.testing.assert_array_equal(first.homogeneous, second.homogeneous)
    np.testing.assert_allclose(first.matrix @ first.matrix.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(first.matrix) > 0


@pytest.mark.slow
@pytest.mark.parametrize("angle", [60.0, 135.0, 180.0])
def test_turned_lungs(weights: Weights, real_data_dir: Path, angle: float) -> None:
    """Two people's MR: what is left of the turn is what two people differ by."""
    folder = real_data_dir / "lung_mr_lobes"
    fixed, moving = (read_image(folder / f"{name}.nii.gz") for name in ("0004", "0006"))
    seen, motion = turned(moving, rotation((angle, 20.0, -30.0)))
    pair = prepare_pair(fixed, seen, searched_rule(weights.config.preprocess))
    assert degrees(motion.matrix.T @ search_rotation(pair, weights).matrix) < 15

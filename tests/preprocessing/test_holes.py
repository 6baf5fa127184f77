"""What a mask leaves out is continued from inside it."""

from __future__ import annotations

import numpy as np
import pytest

from carl_cli.preprocessing.holes import filled

SHAPE = (17, 20, 15)


def _ball(radius: float) -> np.ndarray:
    index = np.stack(np.indices(SHAPE), -1)
    inside: np.ndarray = np.linalg.norm(index - (8, 10, 7), axis=-1) < radius
    return inside


def test_nothing_of_what_is_left_out_remains() -> None:
    draw = np.random.default_rng(0)
    image, mask = draw.random(SHAPE, np.float32), ~_ball(5)
    other = np.where(mask, image, draw.random(SHAPE, np.float32) * 9)
    first, second = (filled(each.astype(np.float32), mask) for each in (image, other))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[mask], image[mask])
    assert first.dtype == np.float32


def test_a_ramp_is_carried_on_smoothly() -> None:
    """Between the values around the hole, and near the ramp itself: no edge is left."""
    ramp = np.broadcast_to(np.arange(15, dtype=np.float32), SHAPE).copy()
    hole = _ball(4)
    found = filled(np.where(hole, 1000, ramp).astype(np.float32), ~hole)
    assert 2 <= found[hole].min() < found[hole].max() <= 12  # taps reach two voxels beyond it
    assert np.abs(found - ramp)[hole].mean() < 1.5
    assert np.abs(np.diff(found, axis=2)).max() < 4


def test_far_from_the_mask_there_is_no_number_that_is_none() -> None:
    one = np.zeros(SHAPE, bool)
    one[16, 0, 14] = True
    found = filled(np.full(SHAPE, 0.25, np.float32), one)
    np.testing.assert_allclose(found, 0.25, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_image_stored_back_to_front_is_filled_alike(axis: int) -> None:
    image, mask = np.random.default_rng(1).random(SHAPE, np.float32), ~_ball(5)
    turned = filled(np.flip(image, axis).copy(), np.flip(mask, axis).copy())
    np.testing.assert_allclose(np.flip(turned, axis), filled(image, mask), atol=1e-6)


def test_a_mask_of_the_whole_image_changes_nothing() -> None:
    image = np.random.default_rng(2).random(SHAPE, np.float32)
    assert filled(image, np.ones(SHAPE, bool)) is image
    assert filled(image, None) is image

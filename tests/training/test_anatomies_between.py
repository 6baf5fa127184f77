"""examples/training/anatomies_between.py: maps bent part of the way, by closed forms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import carl_cli as carl
from examples.training import anatomies_between as between

SPACING_MM = 2.0
SHAPE = (6, 7, 12)  # z, y, x


def _shift(x_mm: float) -> carl.AffineTransform:
    return carl.AffineTransform(np.eye(3), np.array([x_mm, 0, 0]))


@pytest.mark.parametrize(("part", "voxels"), [(0, 0), (0.5, 1), (1, 2)])
def test_a_part_of_a_shift_is_a_shorter_shift(part: float, voxels: int) -> None:
    labels = np.random.default_rng(0).integers(1, 9, SHAPE).astype(np.uint8)
    image = between.on_grid(labels, SPACING_MM)
    moved = between.moved_part(image, image.grid, _shift(2 * SPACING_MM), part).array
    np.testing.assert_array_equal(moved[..., : 12 - voxels], labels[..., voxels:])
    assert moved.dtype == np.uint8


def test_each_person_goes_towards_each_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three people, six maps; each on the grid of the one that it goes towards, 3 to 7 of the
    ten voxels away from its own place."""
    seen: list[tuple[Any, ...]] = []

    def registered(fixed: carl.Image, moving: carl.Image) -> SimpleNamespace:
        seen.append((fixed, moving))
        ten = 10 * SPACING_MM
        return SimpleNamespace(forward=_shift(-ten), backward=_shift(ten))

    monkeypatch.setattr(carl, "register", registered)
    people = {name: np.zeros((4, 4, 41), np.uint8) for name in ("a", "b", "c")}
    for labels in people.values():
        labels[..., 20] = 1
    arrays = people | {"t1": np.array([0, 0.8]), "spacing_mm": np.array(SPACING_MM)}
    found = dict(between.anatomies_between(arrays, list(people)))
    assert set(found) == {f"{m}towards{f}" for m in people for f in people if m != f}
    for name, labels in found.items():
        (place,) = set(np.nonzero(labels)[2])
        assert 3 <= (place - 20) * (1 if name[0] > name[-1] else -1) <= 7
    assert [image.array.mean() for image in seen[0]] == pytest.approx([0.8 / 41] * 2, abs=0.01)

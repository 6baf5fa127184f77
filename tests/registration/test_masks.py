"""A lesion that a mask leaves out, without `--io`: it keeps its volume, and nothing around it moves
because of it. carl-base on a phantom of 2 mm voxels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from carl_cli.io.images.files import Image
from carl_cli.model.fields import identity
from carl_cli.preprocessing.intensity import Intensity
from carl_cli.preprocessing.pair import NetworkImage, PreparedPair
from carl_cli.registration.affine import fit_linear
from carl_cli.registration.register import Registration, register
from carl_cli.registration.register import RegistrationOptions as Options
from carl_cli.transforms import (
    DisplacementField,
    Transform,
    jacobian_determinant,
)
from carl_cli.transforms.fitting import fit_points
from carl_cli.weights.folder import Weights
from carl_cli.weights.locate import chosen_weights
from tests.conftest import make_grid
from tests.registration.test_alignment import SIDE, anatomy, bend, inverted

MM = 2.0
GRID = make_grid((SIDE,) * 3, (MM,) * 3, (-47.0, 12.0, 5.0))
RADIUS_MM = 10.0
MARGIN_MM = 3.0  # of the mask around the lesion, whose edge is soft


class Lesion(NamedTuple):
    image: Image
    mask: Image  # 1 where the image may be used
    distance_mm: NDArray[np.float64]  # from its middle, (z, y, x)

    @property
    def inside(self) -> NDArray[np.bool_]:
        return self.distance_mm < RADIUS_MM


def _image(values: torch.Tensor | NDArray[np.generic]) -> Image:
    return Image(np.ascontiguousarray(values, np.float32), GRID)


def _planted(image: Image, value: float) -> Lesion:
    """A ball at the body's edge of organs, brighter or darker than what was there."""
    middle = GRID.points_mm()[28, 19, 26]
    distance = np.linalg.norm(GRID.points_mm() - middle, axis=-1)
    soft = 1 / (1 + np.exp(distance - RADIUS_MM))
    planted = _image(image.array * (1 - soft) + value * soft)
    outside = (distance > RADIUS_MM + MARGIN_MM).astype(np.uint8)
    return Lesion(planted, Image(outside, GRID), distance)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return chosen_weights("carl-base", "cpu")


@pytest.fixture(scope="module", params=["same", pytest.param("inverted", marks=pytest.mark.slow)])
def contrast(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(contrast: str) -> tuple[Image, Image]:
    grid = identity((SIDE,) * 3, False)
    back = grid
    for _ in range(30):
        back = back + grid - bend(back)
    fixed, moving = anatomy(grid), anatomy(back)
    moving = inverted(moving) if contrast == "inverted" else moving
    return _image(fixed[0, 0]), _image(moving[0, 0])


@pytest.fixture(scope="module")
def healthy(pair: tuple[Image, Image], weights: Weights) -> Registration:
    return register(*pair, weights)


def _change(found: Transform, healthy: Transform, lesion: Lesion) -> tuple[float, float]:
    """Volume of the lesion in the other image's space, as a share of what the map without lesion
    gives; and the mean difference of the two maps in mm, in the body outside the lesion."""
    volumes = [jacobian_determinant(each, GRID)[lesion.inside].sum() for each in (found, healthy)]
    body = (lesion.mask.array > 0) & (np.abs(GRID.points_mm() - GRID.centre_mm).max(-1) < 28)
    points = GRID.points_mm()[body]
    apart = np.linalg.norm(found(points) - healthy(points), axis=1)
    return float(volumes[0] / volumes[1]), float(apart.mean())


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_masked_lesion_keeps_its_volume(
    pair: tuple[Image, Image], contrast: str, healthy: Registration, weights: Weights, side: str
) -> None:
    """Within 5 %, and the map around it within a tenth of a voxel; a fifth for two contrasts, whose
    channels are wider than windows. Not so without the mask."""
    way = {"fixed": "forward", "moving": "backward"}[side]
    both = dict(zip(("fixed", "moving"), pair, strict=True))
    lesion = _planted(both[side], 0.05)
    both[side] = lesion.image
    masked = register(**both, weights=weights, options=Options(**{f"{side}_mask": lesion.mask}))
    seen = register(**both, weights=weights)
    known = getattr(healthy, way)
    kept, apart = _change(getattr(masked, way), known, lesion)
    changed, pulled = _change(getattr(seen, way), known, lesion)
    print(f"volume {kept:.3f} (no mask: {changed:.3f}), {apart:.3f} mm (no mask: {pulled:.3f})")
    assert kept == pytest.approx(1, abs=0.05)
    assert abs(changed - 1) > 0.15
    assert apart < {"same": 0.1, "inverted": 0.2}[contrast] * MM < pulled


def test_a_linear_fit_takes_no_point_from_a_lesion() -> None:
    """That of the other points, though the map errs inside the fixed lesion, and collapses to a
    point inside the moving one."""
    points = GRID.points_mm()
    shift = np.array([2.0, -1.0, 3.0])
    target = points + shift + np.sin(points[..., ::-1] / 15)
    here, there = points[12, 20, 20], points[34, 30, 28]
    in_fixed, in_moving = (np.linalg.norm(points - at, axis=-1) < 14 for at in (here, there))
    target[in_fixed] += 20
    target[in_moving] = there + shift
    masks = ~in_fixed, np.linalg.norm(points - there - shift, axis=-1) > 3
    values = np.ones(GRID.shape_zyx, np.float32)
    sides = [NetworkImage(values, GRID, mask, Intensity(0, 1, "mr")) for mask in masks]
    field = DisplacementField(GRID, target - points)
    found = fit_linear("affine", field, PreparedPair(*sides, None))
    reached = target[::2, ::2, ::2]
    left = ~(in_fixed | in_moving)[::2, ::2, ::2]
    left &= (np.abs(reached - GRID.centre_mm) < SIDE * MM / 2).all(-1)
    expected = fit_points(points[::2, ::2, ::2][left], reached[left], np.ones(left.sum()))
    np.testing.assert_allclose(found(points), expected(points), atol=1e-6)

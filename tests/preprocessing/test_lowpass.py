"""The low-pass against closed forms and scipy, and the reduction of large images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, special

from carl_cli.io.images.files import Image
from carl_cli.preprocessing import foreground
from carl_cli.preprocessing import lowpass as reduce
from carl_cli.preprocessing.lowpass import gaussian, halved, low_pass
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from tests.conftest import make_grid, rotation

RNG = np.random.default_rng(11)


@pytest.mark.parametrize("variances", [(0.4, 0.0, 1.7), (4.4, 0.02, 0.6)])
def test_gaussian_is_lindebergs(variances: tuple[float, ...]) -> None:
    array = RNG.normal(size=(23, 31, 27)).astype(np.float32)
    expected = array.astype(float)
    for axis, variance in enumerate(variances):
        reach = int(np.ceil(3 * np.sqrt(variance))) + 1
        taps = special.ive(np.abs(np.arange(-reach, reach + 1)), variance)
        expected = ndimage.convolve1d(expected, taps / taps.sum(), axis, mode="nearest")
    np.testing.assert_allclose(gaussian(array, variances), expected, atol=2e-6)


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_halving_keeps_places_and_is_symmetric(size: int, axis: int) -> None:
    grid = make_grid((size, size, size), (1.0, 2.0, 3.0), (4, 5, 6), rotation((10, 20, 30)))
    ramp = (grid.points_mm() @ [1.0, -2.0, 0.5]).astype(np.float32)
    half, variance_mm2 = halved(Image(ramp, grid), axis)
    expected = half.grid.points_mm() @ [1.0, -2.0, 0.5]
    inner = tuple(slice(1, -1) if k == 2 - axis else slice(None) for k in range(3))
    np.testing.assert_allclose(half.array[inner], expected[inner], atol=1e-4)
    np.testing.assert_allclose(half.grid.centre_mm, grid.centre_mm, atol=1e-9)
    assert variance_mm2 == (1.0 if size % 2 else 0.75) * grid.spacing_mm[axis] ** 2
    noise = RNG.normal(size=ramp.shape).astype(np.float32)
    ahead, _ = halved(Image(noise, grid), axis)
    back, _ = halved(Image(np.ascontiguousarray(noise[::-1, ::-1, ::-1]), grid), axis)
    np.testing.assert_allclose(ahead.array, back.array[::-1, ::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("size", [121, 120, 124])
@pytest.mark.parametrize("target", [1.2, 1.4, 2.5, 3.7, 7.0, 9.0])
def test_width_of_the_low_pass(target: float, size: int) -> None:
    """x² smoothed is x² + variance, and the variance is that of FWHM² = target² - source²."""
    grid = make_grid((size, 4, 4), (1.0, 1.0, 1.0), (3.0, 0.0, 0.0))
    parabola = ((grid.points_mm()[..., 0] - 3) ** 2).astype(np.float32)
    smooth = low_pass(Image(parabola, grid), (target, 1.0, 1.0))
    x = smooth.grid.points_mm()[..., 0] - 3
    added = (smooth.array - x**2)[np.abs(x) < 25]
    assert np.ptp(added) < 2e-3
    assert added.mean() == pytest.approx((target**2 - 1) / (8 * np.log(2)), rel=0.04)


def test_no_change_where_the_target_is_finer() -> None:
    grid = make_grid((9, 8, 7), (1.0, 2.0, 3.0))
    image = Image(RNG.normal(size=grid.shape_zyx).astype(np.float32), grid)
    np.testing.assert_array_equal(low_pass(image, (0.5, 2.0, 3.0)).array, image.array)


def test_large_images_are_reduced_first_with_nearly_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = make_grid((96, 92, 80), (0.7, 0.7, 1.0), (3, 4, 5), rotation((5, 3, 12)))
    inside = np.linalg.norm(grid.points_mm() - [3, 4, 5], axis=-1)
    image = Image((1000 / (1 + np.exp((inside - 24) / 2)) - 1000).astype(np.int16), grid)
    rule = PreprocessRule(grid_rule="physical", max_voxels=16**3, multiple_of=8)
    monkeypatch.setattr(foreground, "COARSE_VOXELS", 24)  # coarser than the reduced image
    whole = prepare_pair(image, image, rule).fixed
    monkeypatch.setattr(reduce, "LARGE_VOXELS", 100_000)
    reduced = reduce.as_float(image, (-1000, 1000), may_reduce=True)
    assert reduced.array.size <= 100_000
    assert reduced.grid.spacing_mm == (1.4, 1.4, 2.0)
    np.testing.assert_allclose(reduced.grid.centre_mm, 0, atol=1e-9)
    lean = prepare_pair(image, image, rule).fixed
    assert lean.array.shape == whole.array.shape
    np.testing.assert_allclose(lean.grid.centre_mm, whole.grid.centre_mm, atol=0.1)
    assert np.abs(lean.array - whole.array).max() < 0.02
    assert reduce.as_float(image, None, may_reduce=False).array.shape == image.array.shape

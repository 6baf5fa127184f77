"""Averages of voxels against numpy and closed forms."""

from __future__ import annotations

import numpy as np

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.registration.averaging import average, gradient_energy, sharpened, vote

RNG = np.random.default_rng(5)


def stack(count: int = 7) -> np.ndarray:
    values = RNG.normal(3, 1, (count, 6, 5, 4)).astype(np.float32)
    values[0, :2] = np.nan
    values[:, 5] = np.nan
    return values


def test_the_mean_counts_what_an_image_shows() -> None:
    values = stack()
    found = average(iter(values))
    with np.errstate(invalid="ignore"):
        shown = values[:, :5].astype(float)
        np.testing.assert_allclose(found.mean[:5], np.nanmean(shown, axis=0), rtol=1e-6)
        np.testing.assert_allclose(found.variance[:5], np.nanvar(shown, axis=0), rtol=1e-5)
    assert np.isnan(found.mean[5]).all()


def test_the_robust_mean_is_hubers_step_from_the_median() -> None:
    """At one voxel, by hand: median 3, MAD 1, limit 1.345 * 1.4826 = 1.9941; 103 counts 0.01994."""
    values = np.array([1, 2, 3, 4, 103], np.float32).reshape(5, 1, 1, 1)
    limit = 1.345 * 1.4826
    weights = np.array([limit / 2, 1, 1, 1, limit / 100])
    expected = weights @ values.ravel() / weights.sum()
    np.testing.assert_allclose(average(values, "robust").mean, expected, rtol=1e-6)


def test_one_odd_image_moves_the_mean_and_hardly_the_robust_mean() -> None:
    values = RNG.normal(0, 1, (9, 20, 20, 20)).astype(np.float32)
    odd = values.copy()
    odd[4] += 50
    moved = {how: (average(odd, how).mean - average(values, how).mean).mean() for how in HOWS}
    np.testing.assert_allclose(moved["mean"], 50 / 9, rtol=1e-3)
    assert 0 < moved["robust"] < 0.5


HOWS = ("mean", "robust")


def test_a_robust_mean_where_images_agree_or_show_nothing() -> None:
    """Of three images one of which shows nothing it is the mean of the two; of equal ones they."""
    values = np.array([[1.0, 4], [2, 4], [np.nan, 4], [np.nan, 9]], np.float32).reshape(4, 2, 1)
    np.testing.assert_allclose(average(values, "robust").mean.ravel(), [1.5, 4])


def test_the_vote_is_the_mode_and_the_smallest_of_several() -> None:
    labels = [np.array(row, np.uint16) for row in ([5, 2, 7, 0], [5, 3, 7, 9], [1, 3, 0, 4])]
    found = vote([row.reshape(2, 2) for row in labels])
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found.ravel(), [5, 3, 7, 0])


def test_sharpening_raises_a_waves_height_by_what_a_blur_takes() -> None:
    """A wave of frequency w keeps exp(-w² / 2) of its height in a blur of one voxel; the values
    stay within the image's own, so that the wave rides on a higher one."""
    grid = Grid((240, 3, 3), (2.0, 2.0, 2.0), (0.0,) * 3, tuple(np.eye(3).ravel()))
    x = np.arange(240) * np.ones((3, 3, 1))
    w = 2 * np.pi / 6
    slow, quick = 100 * np.cos(x * 2 * np.pi / 240), 0.5 * np.sin(w * x)
    image = Image((slow + quick).astype(np.float32), grid)
    made = sharpened(image, 0.8).array - slow
    middle = (1, 1, slice(50, 70))
    kept = np.exp(-(w**2) / 2)
    expected = quick * (1 + 0.8 * (1 - kept)) + 0.8 * slow * (1 - np.exp(-((np.pi / 120) ** 2) / 2))
    np.testing.assert_allclose(made[middle], expected[middle], atol=0.02)
    assert gradient_energy(sharpened(image, 0.8)) > gradient_energy(image)


def test_gradient_energy_of_a_wave() -> None:
    """sin(x / L) has the energy 1 / L² of its variance, whatever the height and the spacing."""
    grid = Grid((600, 4, 4), (0.5, 3.0, 1.0), (0.0,) * 3, tuple(np.eye(3).ravel()))
    x = 0.5 * np.arange(600) * np.ones((4, 4, 1))
    image = Image((70 * np.sin(x / 10)).astype(np.float32), grid)
    np.testing.assert_allclose(gradient_energy(image), 1 / 10**2, rtol=0.02)

"""Each figure against a closed form or a second implementation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage, stats

from carl_cli.errors import InputError
from carl_cli.evaluation import metrics
from carl_cli.io.images.files import read_image
from carl_cli.transforms import AffineTransform

RNG = np.random.default_rng(8)


def box(start: tuple[int, ...], size: tuple[int, ...], label: int = 1) -> np.ndarray:
    array = np.zeros((30, 32, 34), np.uint8)
    array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = label
    return array


def ball(centre: tuple[float, ...], radius: float, spacing_zyx=(1.0, 1.0, 1.0)) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(48.0),) * 3, indexing="ij"), axis=-1)
    return (np.linalg.norm((index - centre) * spacing_zyx, axis=-1) <= radius).astype(np.uint16)


def blobs(seed: int, count: int = 5) -> np.ndarray:
    """A smooth random label map, 0 to count - 1."""
    noise = np.random.default_rng(seed).normal(size=(count, 30, 36, 33))
    smooth = np.stack([ndimage.gaussian_filter(n, 3) for n in noise])
    return np.argmax(smooth, axis=0).astype(np.int32)


def test_dice_of_shifted_boxes() -> None:
    found = metrics.dice(box((5, 5, 5), (10, 8, 6)), box((7, 5, 5), (10, 8, 6)))
    assert found.values == {1: pytest.approx(0.8)}


def test_dice_equals_simpleitk() -> None:
    fixed, warped = blobs(1), blobs(2)
    warped[10:] = fixed[10:]
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.GetImageFromArray(fixed), sitk.GetImageFromArray(warped))
    found = metrics.dice(fixed, warped)
    assert sorted(found.values) == [1, 2, 3, 4]
    for label, value in found.values.items():
        assert value == pytest.approx(overlap.GetDiceCoefficient(label), abs=1e-12)
    assert found.mean == pytest.approx(np.mean(list(found.values.values())))


def test_dice_of_labels_that_are_missing() -> None:
    found = metrics.dice(box((5, 5, 5), (3, 3, 3)), box((5, 5, 5), (3, 3, 3), 2), (1, 2, 9))
    assert found.values[1] == found.values[2] == 0
    assert math.isnan(found.values[9])
    assert found.mean == 0
    nothing = metrics.dice(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)))
    assert nothing.values == {}
    assert math.isnan(nothing.mean)


def test_dice_of_labels_beyond_float32() -> None:
    big = box((2, 2, 2), (6, 6, 6)).astype(np.uint32) * (2**24 + 1)
    other = box((2, 2, 2), (6, 6, 6)).astype(np.uint32) * (2**24 + 2)
    assert metrics.dice(big, other).values == {2**24 + 1: 0.0, 2**24 + 2: 0.0}


def test_surface_of_shifted_boxes() -> None:
    """A box moved by 3 voxels of 2 mm along x: its end faces lie 6 mm apart."""
    fixed, warped = box((5, 5, 5), (9, 9, 9)), box((5, 5, 8), (9, 9, 9))
    found = metrics.surface_distance(fixed, warped, (2.0, 1.0, 1.0))
    assert found.hd95_mm.values[1] == pytest.approx(6.0)
    expected = reference_surface(fixed == 1, warped == 1, (1.0, 1.0, 2.0))
    assert found.mean_mm.values[1] == pytest.approx(np.concatenate(expected).mean(), rel=1e-6)


def test_surface_of_one_voxel_and_a_cube() -> None:
    """One voxel in the middle of a cube's side of 7: distances by hand."""
    fixed, warped = box((10, 10, 10), (7, 7, 7)), box((13, 13, 13), (1, 1, 1))
    found = metrics.surface_distance(fixed, warped, (1.0, 1.0, 1.0))
    offsets = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), axis=-1).reshape(-1, 3)
    shell = np.linalg.norm(offsets[np.abs(offsets).max(axis=1) == 3], axis=1)
    assert found.hd95_mm.values[1] == pytest.approx(max(np.percentile(shell, 95), 3.0), rel=1e-6)
    both = np.append(shell, 3.0)
    assert found.mean_mm.values[1] == pytest.approx(both.mean(), rel=1e-6)


def test_concentric_balls_differ_by_their_radii() -> None:
    spacing_xyz = (1.0, 0.8, 1.25)
    zyx = spacing_xyz[::-1]
    fixed, warped = ball((24, 24, 24), 17, zyx), ball((24, 24, 24), 12, zyx)
    found = metrics.surface_distance(fixed, warped, spacing_xyz)
    assert found.hd95_mm.values[1] == pytest.approx(5, abs=0.6)
    assert found.mean_mm.values[1] == pytest.approx(5, abs=0.3)


@pytest.mark.parametrize("spacing_xyz", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.9)])
def test_surface_equals_scipy(spacing_xyz: tuple[float, float, float]) -> None:
    fixed, warped = blobs(3), blobs(4)
    found = metrics.surface_distance(fixed, warped, spacing_xyz)
    for label in (1, 2, 3, 4):
        a, b = reference_surface(fixed == label, warped == label, spacing_xyz[::-1])
        worst = max(np.percentile(a, 95), np.percentile(b, 95))
        assert found.hd95_mm.values[label] == pytest.approx(worst, rel=1e-5)
        mean = np.concatenate([a, b]).mean()
        assert found.mean_mm.values[label] == pytest.approx(mean, rel=1e-5)


def reference_surface(a: np.ndarray, b: np.ndarray, spacing_zyx: tuple[float, ...]):
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    away = [ndimage.distance_transform_edt(~edge, spacing_zyx) for edge in borders]
    return away[1][borders[0]], away[0][borders[1]]


def test_surface_of_empty_labels_is_nan() -> None:
    found = metrics.surface_distance(
        box((5, 5, 5), (3, 3, 3)), np.zeros((30, 32, 34)), (1.0, 1.0, 1.0), (1, 2)
    )
    for figures in (found.hd95_mm, found.mean_mm):
        assert all(math.isnan(v) for v in figures.values.values())
        assert math.isnan(figures.mean)


def test_surface_of_real_lobes_is_zero_to_itself(data_dir: Path) -> None:
    lobes = read_image(data_dir / "lung_mr_lobes" / "0004_seg.nii.gz")
    labels = lobes.array.astype(np.uint8)
    found = metrics.surface_distance(labels, labels, lobes.grid.spacing_mm)
    assert found.hd95_mm.values == dict.fromkeys(range(1, 6), 0.0)
    one_off = metrics.surface_distance(labels, np.roll(labels, 1, 0), lobes.grid.spacing_mm)
    assert max(one_off.hd95_mm.values.values()) <= lobes.grid.spacing_mm[2] + 1e-4


def test_tre_by_hand() -> None:
    a = np.array([[0.0, 0, 0], [1, 1, 1], [2, 0, 0]])
    b = np.array([[3.0, 4, 0], [1, 1, 1], [2, 0, 10]])
    found = metrics.tre(a, b)
    assert (found.count, found.mean_mm, found.median_mm, found.max_mm) == (3, 5.0, 5.0, 10.0)
    assert found.std_mm == pytest.approx(np.std([5, 0, 10]))
    assert math.isnan(metrics.tre(np.empty((0, 3)), np.empty((0, 3))).mean_mm)
    with pytest.raises(InputError, match="3 landmarks meet 2"):
        metrics.tre(a, b[:2])


def test_folds_and_sdlogj() -> None:
    determinant = np.ones((10, 10, 10))
    determinant[:2, 0, 0] = (0.0, -0.5)
    assert metrics.folds([determinant]).percent == pytest.approx(0.2)
    spread = np.exp(RNG.normal(0, 0.13, (40, 40, 40)))
    assert metrics.folds([spread]).sdlogj == pytest.approx(0.13, rel=0.01)
    assert metrics.folds([np.full((5, 5), 3.7)]).sdlogj == pytest.approx(0)
    half = np.array([-1.0, 1.0])
    assert metrics.folds([half]).sdlogj == pytest.approx(math.log(1e9) / 2)
    assert math.isnan(metrics.folds([np.empty(0)]).percent)


def test_folds_of_parts_are_those_of_the_whole() -> None:
    """Parts of other sizes and means, one of them empty, against numpy on all."""
    whole = np.concatenate([np.exp(RNG.normal(k, 0.2, 100 * (k + 1))) for k in range(3)])
    whole[::7] *= -1
    parts = np.split(whole, (30, 30, 250))
    found = metrics.folds(parts)
    assert found.percent == pytest.approx(100 * np.mean(whole <= 0), rel=1e-12)
    assert found.sdlogj == pytest.approx(np.log(whole.clip(1e-9)).std(), rel=1e-12)


def test_inverse_consistency_error() -> None:
    matrix = np.array([[1.1, 0.1, 0], [0, 0.9, 0], [0, 0.05, 1.0]])
    forward = AffineTransform(matrix, np.array([5.0, -3.0, 2.0]))
    points = RNG.uniform(-50, 50, (4, 5, 6, 3))
    exact = metrics.inverse_consistency_error(forward, forward.inverse(), points)
    assert exact.max_mm < 1e-10
    off = AffineTransform(np.eye(3), np.array([0.0, 0.3, 0.4])) @ forward.inverse()
    found = metrics.inverse_consistency_error(forward, off, points)
    assert (found.count, found.mean_mm) == (120, pytest.approx(0.5))


@pytest.fixture(params=["whole", "in parts"])
def part_values(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in parts":
        monkeypatch.setattr(metrics, "PART_VALUES", 2000)


@pytest.mark.usefixtures("part_values")
def test_ncc_equals_scipy() -> None:
    a, b = RNG.normal(size=(2, 20, 21, 22))
    b = b + 0.7 * a
    assert metrics.ncc(a, b) == pytest.approx(stats.pearsonr(a.ravel(), b.ravel())[0])
    mask = RNG.random(a.shape) > 0.6
    assert metrics.ncc(a, b, mask) == pytest.approx(stats.pearsonr(a[mask], b[mask])[0])
    assert metrics.ncc(a, -3 * a + 7) == pytest.approx(-1)
    assert math.isnan(metrics.ncc(a, np.ones_like(a)))


@pytest.mark.usefixtures("part_values")
def test_lncc_equals_scipy() -> None:
    a, b = (ndimage.gaussian_filter(RNG.normal(size=(24, 25, 26)), 1.5) for _ in range(2))
    b = b + 0.8 * a

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, 9)[4:-4, 4:-4, 4:-4]

    covariance = mean(a * b) - mean(a) * mean(b)
    scale = np.sqrt((mean(a * a) - mean(a) ** 2) * (mean(b * b) - mean(b) ** 2))
    assert metrics.lncc(a, b) == pytest.approx((covariance / scale).mean(), abs=1e-9)
    mask = np.zeros(a.shape, bool)
    mask[4:12] = True
    assert metrics.lncc(a, b, mask) == pytest.approx((covariance / scale)[:8].mean(), abs=1e-9)


def test_lncc_does_not_see_local_gain_and_leaves_flat_regions_out() -> None:
    a = ndimage.gaussian_filter(RNG.normal(size=(30, 30, 30)), 2) + 100
    gain = np.repeat([1.0, 5.0], 15)[:, None, None]
    b = a * gain
    b[:12] = 4.0
    inside = np.zeros(a.shape, bool)
    inside[19:] = True
    assert metrics.lncc(a, b, inside) == pytest.approx(1, abs=1e-6)
    inside[:] = False
    inside[4:7] = True
    assert math.isnan(metrics.lncc(a, b, inside))


@pytest.mark.usefixtures("part_values")
def test_nmi_closed_forms_and_scipy() -> None:
    a, b = RNG.normal(size=(2, 60, 60, 60))
    assert metrics.nmi(a, a) == pytest.approx(2)
    assert metrics.nmi(a, -2 * a + 3) == pytest.approx(2)
    assert metrics.nmi(a, b) == pytest.approx(1, abs=0.01)
    assert math.isnan(metrics.nmi(a, np.zeros_like(a)))
    b = a + 0.5 * b
    joint = np.histogram2d(a.ravel(), b.ravel(), 64)[0]
    parts = [stats.entropy(joint.sum(axis=k)) for k in (0, 1)]
    assert metrics.nmi(a, b) == pytest.approx(sum(parts) / stats.entropy(joint.ravel()))


@pytest.mark.parametrize("figure", ["dice", "ncc", "lncc", "nmi"])
def test_arrays_of_different_shapes_are_refused(figure: str) -> None:
    with pytest.raises(InputError, match="can't be compared"):
        getattr(metrics, figure)(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)))

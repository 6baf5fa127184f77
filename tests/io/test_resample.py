"""Resampling against closed forms, ITK, ANTs: every geometry onto every other."""

from __future__ import annotations

from collections.abc import Callable

import ants
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, to_sitk
from carl_cli.io.resample import interpolator_name, resample, round_and_clip, smooth
from carl_cli.transforms import AffineTransform

MakeImage = Callable[..., Image]
SHIFT = AffineTransform(np.eye(3), np.array([6.0, -4.0, 3.0]))
TURN = AffineTransform(
    np.array([[0.98, -0.17, 0.03], [0.16, 0.97, -0.05], [-0.02, 0.06, 1.03]]),
    np.array([3.0, -2.0, 4.0]),
)


def inside(moving: Grid, points: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Where points lie between the moving image's voxel centres."""
    index = apply_affine(moving.lps_to_index, points)
    last = np.array(moving.size_xyz) - 1
    return np.all((index >= margin) & (index <= last - margin), axis=-1)


def to_ants(image: Image) -> ants.ANTsImage:
    array = np.ascontiguousarray(image.array.T)
    grid = image.grid
    matrix = grid.direction_matrix
    return ants.from_numpy(array, list(grid.origin_mm), list(grid.spacing_mm), matrix)


def test_linear_gives_a_linear_function_back(grids: dict[str, Grid], any_grid: Grid) -> None:
    gradient = np.array([3.0, -2.0, 5.0])
    moving = grids["oblique"]
    image = Image((moving.points_mm() @ gradient + 7).astype("float64"), moving)
    mapped = TURN(any_grid.points_mm())
    known = inside(moving, mapped)
    result = resample(image, any_grid, TURN).array
    assert known.sum() > 1000
    np.testing.assert_allclose(result[known], (mapped @ gradient + 7)[known], atol=1e-9)


@pytest.mark.parametrize("sign_error", [False, True])
def test_a_known_translation_has_the_right_sign(
    grids: dict[str, Grid], make_image: MakeImage, sign_error: bool
) -> None:
    grid = grids["plain"]
    image = make_image(grid)
    shift = np.array([6.0, -4.0, 2.0]) * (-1 if sign_error else 1)
    result = resample(image, grid, AffineTransform(np.eye(3), shift)).array
    expected = image.array[1:, :-2, 3:]  # voxels of 2 mm: x + 3, y - 2, z + 1
    assert np.allclose(result[:-1, 2:, :-3], expected, atol=1e-3) != sign_error


def by_ants(moving: Image, fixed: Grid, interpolation: str) -> np.ndarray:
    transform = ants.create_ants_transform(
        "AffineTransform", matrix=TURN.matrix, translation=TURN.translation
    )
    target = to_ants(Image(np.zeros(fixed.shape_zyx, "float32"), fixed))
    result = ants.apply_ants_transform_to_image(
        transform, to_ants(moving), target, interpolation=interpolation
    )
    array: np.ndarray = result.numpy().T
    return array


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("linear", "linear"), ("NearestNeighbor", "nearestNeighbor"), ("BSpline[3]", "bSpline")],
)
def test_ants_gives_the_same_numbers(
    grids: dict[str, Grid], make_image: MakeImage, ours: str, theirs: str
) -> None:
    moving = make_image(grids["flipped"])
    for name in ("oblique", "anisotropic"):
        fixed = grids[name]
        result = resample(moving, fixed, TURN, interpolator=ours).array
        known = inside(moving.grid, TURN(fixed.points_mm()))
        gap = np.abs(result - by_ants(moving, fixed, theirs))[known] / np.ptp(moving.array)
        assert known.sum() > 5000
        if ours == "NearestNeighbor":  # a point half way between voxels may go either way
            assert np.mean(gap > 1e-3) < 1e-3
        else:
            assert gap.max() < 1e-3


@pytest.mark.parametrize("window", ["lanczos", "hamming", "welch", "cosine"])
def test_windowed_sinc_is_nearer_to_the_truth_than_ants(
    grids: dict[str, Grid],
    make_image: MakeImage,
    intensity: Callable[[np.ndarray], np.ndarray],
    window: str,
) -> None:
    """Its radius is 5 voxels here and smaller in ANTs, so the numbers differ by about 1 %."""
    size, spacing = (56, 60, 48), (1.0, 0.9, 1.1)
    wide = grids["flipped"]
    moving = make_image(Grid(size, spacing, wide.origin_mm, wide.direction))
    fixed = grids["oblique"]
    mapped = TURN(fixed.points_mm())
    known = inside(moving.grid, mapped, margin=6)
    truth = intensity(mapped)[known]
    name = f"{window}WindowedSinc"
    ours = resample(moving, fixed, TURN, interpolator=name).array[known]
    theirs = by_ants(moving, fixed, name)[known]
    allowed = {"hamming": 0.012}.get(window, 0.004) * np.ptp(moving.array)
    assert known.sum() > 1000
    assert np.abs(ours - truth).max() < allowed
    assert np.abs(ours - theirs).max() < 0.015 * np.ptp(moving.array)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_integers_are_rounded_not_truncated(grids: dict[str, Grid], dtype: str) -> None:
    grid = grids["plain"]
    values = np.arange(grid.shape_zyx[0])[:, None, None] * np.ones(grid.shape_zyx)
    third = AffineTransform(np.eye(3), np.array([0, 0, 2.0 * 2 / 3]))
    result = resample(Image((3 + values).astype(dtype), grid), grid, third).array
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result[:-1], (4 + values[:-1]).astype(dtype))


def test_overshoot_is_clipped_to_the_type(grids: dict[str, Grid]) -> None:
    grid = grids["plain"]
    edges = np.zeros(grid.shape_zyx, "uint8")
    edges[:, :, 15:] = 255
    part = AffineTransform(np.eye(3), np.array([0.9, 0, 0]))
    exact = resample(Image(edges.astype("float64"), grid), grid, part, interpolator="bspline")
    assert exact.array.min() < -5
    assert exact.array.max() > 260
    result = resample(Image(edges, grid), grid, part, interpolator="bspline").array
    np.testing.assert_array_equal(result, np.clip(np.rint(exact.array), 0, 255).astype("uint8"))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "uint64"])
def test_rounding_at_the_ends_of_a_type(dtype: str) -> None:
    limits = np.iinfo(dtype)
    values = np.array([-1e30, limits.min, 0.5, 1.5, limits.max, 1e30])
    result = round_and_clip(values, np.dtype(dtype))
    assert result.tolist() == [limits.min, limits.min, 0, 2, limits.max, limits.max]


def test_slabs_do_not_show(
    grids: dict[str, Grid], make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(grids["oblique"], "int16")
    whole = resample(image, grids["flipped"], TURN).array
    monkeypatch.setattr("carl_cli.transforms.sampling.SLAB_POINTS", 1000)
    np.testing.assert_array_equal(resample(image, grids["flipped"], TURN).array, whole)


@pytest.mark.parametrize("interpolator", ["nearest", "genericlabel", "multilabel"])
@pytest.mark.parametrize(
    ("dtype", "labels"),
    [
        ("uint8", (1, 128, 255)),
        ("int16", (-5, 7, 32767)),
        ("uint16", (1, 40000, 65535)),
        ("uint32", (2**24 + 1, 2**24 + 3, 2**32 - 1)),
        ("int64", (2**24 + 1, 2**53 + 1, 2**62 + 1)),
        ("uint64", (2**24 + 1, 2**53 + 1, 2**63 + 5)),
        ("float32", (1, 2, 7)),
    ],
)
def test_labels_are_exact(
    make_labels: MakeImage,
    grids: dict[str, Grid],
    interpolator: str,
    dtype: str,
    labels: tuple[int, ...],
) -> None:
    image = make_labels(grids["anisotropic"], labels, dtype)
    result = resample(image, grids["oblique"], TURN, interpolator=interpolator).array
    assert result.dtype == np.dtype(dtype)
    assert set(np.unique(result)) == {np.dtype(dtype).type(v) for v in (0, *labels)}


def test_vote_is_itks_generic_label(make_labels: MakeImage, grids: dict[str, Grid]) -> None:
    image = make_labels(grids["anisotropic"], (3, 9, 200), "uint8")
    for name in ("oblique", "permuted", "plain"):
        fixed = grids[name]
        ours = resample(image, fixed, TURN, interpolator="GenericLabel[Linear]").array
        affine = sitk.AffineTransform(TURN.matrix.ravel().tolist(), TURN.translation.tolist())
        reference = to_sitk(Image(np.zeros(fixed.shape_zyx, "uint8"), fixed))
        theirs = sitk.Resample(to_sitk(image), reference, affine, sitk.sitkLabelLinear)
        np.testing.assert_array_equal(ours, sitk.GetArrayFromImage(theirs))
        nearest = resample(image, fixed, TURN, interpolator="nearest").array
        assert (ours != nearest).sum() > 20


def test_vote_in_two_dimensions_and_on_a_single_slice() -> None:
    flat = Grid((4, 3), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    labels = np.array([[1, 1, 5, 5], [1, 1, 5, 5], [1, 5, 5, 5]], "uint16")
    shift = AffineTransform(np.eye(2), np.array([0.4, 0.3]))
    ours = resample(Image(labels, flat), flat, shift, interpolator="genericlabel").array
    # share of the nearest corner .6 * .7; of the next in x .4 * .7, in y .6 * .3
    np.testing.assert_array_equal(ours, [[1, 1, 5, 5], [1, 5, 5, 5], [1, 5, 5, 5]])
    slab = Grid((4, 3, 1), (1.0, 1.0, 5.0), (0.0,) * 3, tuple(np.eye(3).ravel()))
    deep = AffineTransform(np.eye(3), np.array([0.4, 0.3, 1.0]))
    one = resample(Image(labels[None], slab), slab, deep, interpolator="genericlabel").array
    np.testing.assert_array_equal(one[0], ours)


def test_background_and_output_type(make_image: MakeImage, grids: dict[str, Grid]) -> None:
    far = AffineTransform(np.eye(3), np.array([500.0, 0, 0]))
    image = make_image(grids["plain"], "int16")
    for interpolator in ("linear", "nearest", "genericlabel", "bspline"):
        result = resample(
            image, grids["oblique"], far, interpolator=interpolator, background=-1024, dtype="int32"
        )
        assert result.array.dtype == np.int32
        assert (result.array == -1024).all()


def test_components_are_sampled_one_by_one(make_image: MakeImage, grids: dict[str, Grid]) -> None:
    first = make_image(grids["plain"])
    array = np.stack([first.array, -first.array, 2 * first.array], axis=-1)
    several = Image(array, first.grid, 3, channel_kind="time", time_step=2.5)
    result = resample(several, grids["oblique"], TURN)
    assert (result.channels, result.channel_kind, result.time_step) == (3, "time", 2.5)
    for c in range(3):
        one = resample(Image(np.ascontiguousarray(array[..., c]), first.grid), result.grid, TURN)
        np.testing.assert_array_equal(result.array[..., c], one.array)


def test_smooth_widens_a_gaussian_by_its_variance() -> None:
    grid = Grid((60, 60, 40), (1.0, 1.0, 1.5), (0.0,) * 3, tuple(np.eye(3).ravel()))
    squares = (grid.points_mm() - grid.centre_mm) ** 2
    blob = np.exp(-squares.sum(axis=-1) / (2 * 3.0**2)).astype("float32")
    result = smooth(Image(blob, grid), (4.0, 0.0, 2.0)).array.astype(float)
    variance = [(result * squares[..., k]).sum() / result.sum() for k in range(3)]
    np.testing.assert_allclose(variance, [9 + 16, 9, 9 + 4], rtol=0.02)
    np.testing.assert_allclose(result.sum(), blob.sum(), rtol=1e-3)


def test_smooth_leaves_a_constant_alone_even_on_two_slices() -> None:
    grid = Grid((12, 9, 2), (1.0, 1.0, 3.0), (0.0,) * 3, tuple(np.eye(3).ravel()))
    result = smooth(Image(np.full(grid.shape_zyx, 7, "int16"), grid), (2.0, 2.0, 2.0))
    assert result.array.dtype == np.float32
    np.testing.assert_allclose(result.array, 7, rtol=1e-5)


def test_refusals(make_image: MakeImage, grids: dict[str, Grid]) -> None:
    with pytest.raises(UsageError, match="neighbour"):
        interpolator_name("neighbour")
    flat = Grid((4, 3), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    with pytest.raises(InputError, match=r"3 dimensions.*2"):
        resample(make_image(grids["plain"]), flat)
    grid = Grid((50, 50, 40), (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    grey = Image(np.arange(100000, dtype="float32").reshape(grid.shape_zyx), grid)
    with pytest.raises(InputError, match="100000 different values"):
        resample(grey, grid, interpolator="multilabel")

"""Modality, limits, masks, and images that can't be used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from carl_cli.errors import CarlError, InputError, UsageError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_image
from carl_cli.preprocessing.intensity import detect_modality
from carl_cli.preprocessing.options import ImageOptions
from carl_cli.preprocessing.pair import IntensityRule, PreprocessRule, prepare_pair
from tests.conftest import make_grid

GRID = make_grid((40, 36, 32), (2.0, 2.0, 2.0), (5.0, -4.0, 3.0))
RULE = PreprocessRule(grid_rule="physical", max_voxels=32**3, multiple_of=8)


def ball(grid: Grid = GRID, radius_mm: float = 22.0, centre: tuple[float, ...] = (5, -4, 3)):
    return np.linalg.norm(grid.points_mm() - centre, axis=-1) < radius_mm


def ct(grid: Grid = GRID) -> Image:
    """A ball of soft tissue with some bone in air, in Hounsfield units."""
    rng = np.random.default_rng(2)
    values = np.where(ball(grid), 40 + rng.normal(0, 20, grid.shape_zyx), -1000)
    values[ball(grid, 6)] = 900
    return Image(values.astype(np.int16), grid)


def mr(grid: Grid = GRID) -> Image:
    rng = np.random.default_rng(3)
    values = np.where(ball(grid), 300 + rng.normal(0, 60, grid.shape_zyx), 4)
    return Image(values.astype(np.float32), grid)


def stretch(intensity: IntensityRule) -> PreprocessRule:
    shape = GRID.shape_zyx
    return PreprocessRule(
        grid_rule="stretch", shape_zyx=shape, anti_alias=False, intensity=intensity
    )


CASES = {
    "ct_abdomen/ct.nii.gz": "ct",
    "formats/ct_lung_small.mha": "ct",
    "formats/sheared_sform.nii.gz": "ct",
    "dicom/ct_10_slices_j2k/016573.dcm": "ct",
    "dicom/ct_head_93_slices_as_nrrd/CTHeadAxial.nhdr": "mr",  # its air is stored as 0
    "brain_t1/image_A.nii.gz": "mr",
    "lung_mr_lobes/0004.nii.gz": "mr",
    "formats/oblique.mha": "mr",
    "formats/flair.nrrd": "mr",
}


@pytest.mark.parametrize("path", sorted(CASES))
def test_modality_of_real_images(data_dir: Path, path: str) -> None:
    if path.startswith("formats/sheared"):
        pytest.importorskip("nibabel")
    assert detect_modality(read_image(data_dir / path).array) == CASES[path]


def test_modality_of_odd_values() -> None:
    rng = np.random.default_rng(0)
    tight_ct = rng.normal(30, 60, (30, 30, 30))
    tight_ct[:2, :2, :2] = -950  # a little bowel gas, no air around
    padded_ct = np.where(ball(), 40, -1000)
    padded_ct[:4] = -3024
    phase = rng.uniform(-4096, 4095, (30, 30, 30))
    assert detect_modality(tight_ct) == "ct"
    assert detect_modality(padded_ct) == "ct"
    assert detect_modality(phase) == "mr"
    assert detect_modality(ct().array + 1024) == "mr"
    assert detect_modality(rng.normal(0, 1, (30, 30, 30))) == "mr"


def test_ct_is_clipped_to_the_window() -> None:
    image = ct()
    prepared = prepare_pair(image, image, stretch(IntensityRule())).fixed
    expected = (np.clip(image.array, -1000.0, 1000.0) + 1000) / 2000
    assert prepared.intensity == (-1000.0, 1000.0, "ct")
    np.testing.assert_allclose(prepared.array, expected, atol=1e-6)


def test_the_users_window_replaces_the_rules() -> None:
    prepared = prepare_pair(ct(), mr(), RULE, ImageOptions(window=(-160, 240)))
    assert prepared.fixed.intensity == (-160, 240, "ct")
    assert prepared.moving.intensity.modality == "mr"


def test_modality_can_be_forced_for_each_image() -> None:
    prepared = prepare_pair(ct(), mr(), RULE, ImageOptions("auto", "mr", "ct"))
    assert [one.intensity.modality for one in (prepared.fixed, prepared.moving)] == ["mr", "ct"]
    assert prepared.moving.intensity[:2] == (-1000.0, 1000.0)


@pytest.mark.parametrize("percentiles", [(0.0, 99.0), (2.5, 97.0)])
def test_percentiles_of_the_image(percentiles: tuple[float, float]) -> None:
    image = mr()
    rule = stretch(IntensityRule(percentiles_of="image"))
    prepared = prepare_pair(image, image, rule, ImageOptions(percentiles=percentiles)).fixed
    low, high = np.percentile(image.array, percentiles)
    assert prepared.intensity == (pytest.approx(low), pytest.approx(high), "mr")
    expected = np.clip((image.array - low) / (high - low), 0, 1)
    np.testing.assert_allclose(prepared.array, expected, atol=1e-5)


def test_division_by_the_maximum() -> None:
    image = mr()
    paper = IntensityRule(ct_window=None, lower_percentile=None, upper_percentile=100)
    paper = paper.model_copy(update={"percentiles_of": "image"})
    prepared = prepare_pair(image, image, stretch(paper)).fixed
    np.testing.assert_allclose(prepared.array, image.array / image.array.max(), atol=1e-6)


def test_more_air_around_the_anatomy_does_not_change_the_contrast() -> None:
    wide = make_grid((70, 66, 60), (2.0, 2.0, 2.0), (5.0, -4.0, 3.0))
    small, big = Image(mr().array, GRID), Image(np.full(wide.shape_zyx, 4, np.float32), wide)
    big.array[14:46, 15:51, 15:55] = small.array
    prepared = prepare_pair(small, big, RULE)
    for a, b in zip(prepared.fixed.intensity[:2], prepared.moving.intensity[:2], strict=True):
        assert abs(a - b) < 3


@pytest.mark.parametrize("kind", [ct, mr])
def test_numbers_that_are_not_finite_become_background(
    kind: Callable[[], Image], caplog: pytest.LogCaptureFixture
) -> None:
    image, broken = (replace(kind(), array=kind().array.astype(np.float32)) for _ in "12")
    broken.array[10:12, 10:12, 10:12] = np.nan
    broken.array[0, 0, 0] = np.inf
    image.array[10:12, 10:12, 10:12] = image.array[0, 0, 0] = image.array.min()
    with caplog.at_level(logging.WARNING):
        prepared = prepare_pair(image, broken, RULE)
    assert "9 voxels" in caplog.text
    np.testing.assert_array_equal(prepared.fixed.array, prepared.moving.array)
    assert np.isnan(broken.array[10, 10, 10])


def test_integer_types_and_float_give_the_same_array() -> None:
    values = np.rint(mr().array.clip(0, 600))
    arrays = [
        prepare_pair(Image(values.astype(kind), GRID), mr(), RULE).fixed.array
        for kind in ("uint16", "int32", "float64", "float32")
    ]
    for array in arrays[1:]:
        np.testing.assert_array_equal(array, arrays[0])


def filled(value: float, kind: str = "float32") -> Image:
    return Image(np.full(GRID.shape_zyx, value, kind), GRID, source="scan.nii.gz")


REFUSED = {
    "constant": (filled(7), {}, "scan.nii.gz: no contrast"),
    "constant ct": (
        filled(-1000, "int16"),
        {"options": ImageOptions(modality="ct")},
        "no contrast between",
    ),
    "all nan": (filled(np.nan), {}, "no voxel holds a finite number"),
    "complex": (filled(1, "complex64"), {}, "one real number per voxel"),
    "components": (
        Image(np.zeros((*GRID.shape_zyx, 3), np.float32), GRID, channels=3),
        {},
        "one real number per voxel",
    ),
    "empty mask": (mr(), {"fixed_mask": filled(0, "uint8")}, "the mask is empty"),
    "mask elsewhere": (
        mr(),
        {"fixed_mask": Image(ball(), replace(GRID, origin_mm=(500.0, 0.0, 0.0)))},
        "outside the field of view",
    ),
    "flat mask": (
        mr(),
        {"fixed_mask": Image(np.ones((4, 4)), Grid((4, 4), (1, 1), (0, 0), (1, 0, 0, 1)))},
        "not a mask of 3 dimensions",
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_images_and_masks_that_cannot_be_used(case: str) -> None:
    image, options, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        prepare_pair(image, mr(), RULE, **options)
    assert "\n" not in caught.value.message


WRONG = {
    "window order": ({"window": (100, -100)}, "LOW must be below HIGH, found 100 -100"),
    "window without ct": ({"window": (-100, 100)}, "neither image looks like CT"),
    "percentiles": ({"percentiles": (99, 1)}, "0 <= LOW < HIGH <= 100"),
    "modality": ({"moving_modality": "pet"}, "'pet': choose auto, ct or mr"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_options_that_contradict(case: str) -> None:
    options, words = WRONG[case]
    with pytest.raises(UsageError, match=words):
        prepare_pair(mr(), mr(), RULE, ImageOptions(**options))


def test_images_of_two_dimensions_do_not_meet_three() -> None:
    flat = Image(mr().array[16], Grid((40, 36), (2.0, 2.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0)))
    with pytest.raises(CarlError, match="2 dimensions, the moving one 3"):
        prepare_pair(flat, mr(), RULE)


@pytest.mark.parametrize(
    "fields",
    [
        {"grid_rule": "stretch"},
        {"grid_rule": "physical", "shape_zyx": (8, 8, 8)},
        {"grid_rule": "stretch", "shape_zyx": (8, 0, 8)},
        {"grid_rule": "stretch", "shape_zyx": (8, 8, 8), "orientation": "LRS"},
        {"grid_rule": "physical", "blur": True},
        {"grid_rule": "physical", "intensity": {"ct_window": (5, 5)}},
        {"grid_rule": "physical", "intensity": {"lower_percentile": 99, "upper_percentile": 99}},
    ],
)
def test_rules_that_say_nothing_sensible(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PreprocessRule(**fields)


def test_a_rule_survives_its_json() -> None:
    for rule in (RULE, stretch(IntensityRule(ct_window=None, lower_percentile=None))):
        assert PreprocessRule.model_validate_json(rule.model_dump_json()) == rule


def test_masks_arrive_on_the_network_grid_from_their_own() -> None:
    own = make_grid((60, 50, 20), (1.1, 1.3, 3.0), (5.0, -4.0, 3.0), np.diag([-1.0, -1.0, 1.0]))
    mask = Image(ball(own, 12, (9, -4, 3)).astype(np.uint8) * 3, own)
    prepared = prepare_pair(mr(), mr(), RULE, fixed_mask=mask)
    assert prepared.moving.mask is None
    assert prepared.fixed.mask.dtype == bool
    depth = np.linalg.norm(prepared.fixed.grid.points_mm() - (9, -4, 3), axis=-1)
    assert prepared.fixed.mask[depth < 10].all()
    assert not prepared.fixed.mask[depth > 14].any()


def test_two_masks_decide_what_is_centred_and_one_does_not() -> None:
    mask = Image(ball(GRID, 10, (9, -4, -2)).astype(np.uint8), GRID)
    none = prepare_pair(mr(), mr(), RULE)
    one = prepare_pair(mr(), mr(), RULE, fixed_mask=mask)
    both = prepare_pair(mr(), mr(), RULE, fixed_mask=mask, moving_mask=mask)
    assert one.fixed.grid == none.fixed.grid
    np.testing.assert_allclose(both.fixed.grid.centre_mm, (9, -4, -2), atol=0.3)
    assert np.prod(both.fixed.grid.size_xyz) < np.prod(none.fixed.grid.size_xyz)


def test_division_by_the_maximum_keeps_what_lies_below_0() -> None:
    """Air in a CT is as far below 0 as it was: the paper divides, and clips nothing."""
    rule = IntensityRule(
        ct_window=None, lower_percentile=None, upper_percentile=100, percentiles_of="image"
    )
    image = ct()
    prepared = prepare_pair(image, image, stretch(rule)).fixed.array
    np.testing.assert_allclose(prepared, image.array / 900, atol=1e-5)
    assert (prepared < 0).mean() > 0.5


def test_a_ct_in_a_window_is_clipped() -> None:
    prepared = prepare_pair(ct(), ct(), stretch(IntensityRule(ct_window=(-160, 240)))).fixed.array
    assert prepared.min() == 0
    assert prepared.max() == 1

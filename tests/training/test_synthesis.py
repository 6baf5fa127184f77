"""Rendered pairs: the known correspondence, validity, ranges, determinism."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carl_cli.errors import InputError
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair, PairSynthesiser, SynthesisSettings
from carl_cli.training.synthesis.shapes import LabelMap, load_label_maps, random_people, with_box
from carl_cli.training.synthesis.warps import (
    identity,
    sample_labels,
    sample_linear,
    smooth_displacement,
    spline_field,
)

SHAPE = (28, 32, 24)
PLAIN = SynthesisSettings(
    shape_zyx=SHAPE,
    real_fraction=1.0,
    turn_fraction=0.0,
    strip_fraction=0.0,
    crop_fraction=0.0,
    slab_fraction=0.0,
)


def label_map(labels: torch.Tensor) -> LabelMap:
    count = int(labels.max()) + 1
    inner = torch.zeros(count, dtype=torch.bool)
    return with_box(LabelMap(labels, torch.arange(count), inner))


def ramp(axis: int, side: int = 200, dimension: int = 3) -> LabelMap:
    """Labels that are the voxel's place along one axis, from 1."""
    place = torch.arange(1, side + 1)
    shape = [1] * dimension
    shape[axis] = side
    return label_map(place.reshape(shape).expand([side] * dimension).contiguous())


@pytest.mark.parametrize(("dimension", "axis"), [(3, 0), (3, 1), (3, 2), (2, 0), (2, 1)])
def test_moving_labels_at_phi_are_the_fixed_labels_to_a_part_of_a_voxel(
    dimension: int, axis: int
) -> None:
    # 200 labels across the map: one label is a small part of a voxel of the images.
    settings = replace(PLAIN, bend=(0.5, 0.6), shape_zyx=SHAPE if dimension == 3 else (56, 48))
    map_ = ramp(axis, dimension=dimension)
    pair = PairSynthesiser(settings, [map_], seed=axis).pair(0, same_map=True)
    assert pair.phi is not None
    assert pair.valid is not None
    at_phi = sample_linear(pair.moving_labels[0].float(), pair.phi[0])[0]
    # Away from where the moving image leaves the map.
    solid = sample_labels((pair.moving_labels[0, 0] > 0).long(), pair.phi[0]) > 0
    pool = torch.nn.functional.max_pool3d if dimension == 3 else torch.nn.functional.max_pool2d
    deep = pool((~solid)[None, None].float(), 5, 1, 2)[0, 0] == 0
    inside = deep & (pair.fixed_labels[0, 0] > 0) & pair.valid[0, 0]
    assert inside.sum() > 500
    error = (at_phi - pair.fixed_labels[0, 0].float())[inside]
    slope = pair.fixed_labels[0, 0].diff(dim=axis).abs().float()
    per_voxel = slope[slope > 0].median()
    assert per_voxel > (4 if dimension == 3 else 2)
    assert error.mean().abs() / per_voxel < 0.02
    assert error.square().mean().sqrt() / per_voxel < 0.2


def test_phi_is_the_identity_where_both_poses_are_the_same() -> None:
    still = replace(
        PLAIN, scale=(1, 1), stretch=0, rotation_degrees=0, translation=0, bend=(0.0, 0.0)
    )
    pair = PairSynthesiser(still, [ramp(0, 40)]).pair(3, same_map=True)
    assert pair.phi is not None
    torch.testing.assert_close(pair.phi[0], identity(SHAPE, torch.device("cpu")))
    assert torch.equal(pair.fixed_labels, pair.moving_labels)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 32)])
def test_pairs_are_functions_of_seed_and_index(shape: tuple[int, ...]) -> None:
    settings = replace(PLAIN, shape_zyx=shape, real_fraction=0.0, slab_fraction=0.3)
    forward, backward = PairSynthesiser(settings, seed=4), PairSynthesiser(settings, seed=4)
    ahead = [forward.pair(i) for i in range(10)]
    for i in reversed(range(10)):
        for a, b in zip(tensors(ahead[i]), tensors(backward.pair(i)), strict=True):
            assert torch.equal(a, b)
    other = PairSynthesiser(settings, seed=5).pair(0)
    assert not torch.equal(other.fixed, ahead[0].fixed)
    assert not torch.equal(ahead[1].fixed, ahead[0].fixed)


def tensors(pair: Pair) -> list[torch.Tensor]:
    return [v for v in vars(pair).values() if isinstance(v, torch.Tensor)]


def test_intensities_lie_in_0_1_and_nothing_is_seen_outside_the_field_of_view() -> None:
    settings = replace(PLAIN, real_fraction=0.0, crop_fraction=1.0, slab_fraction=0.5)
    source = PairSynthesiser(settings, seed=2)
    kinds = set()
    for index in range(12):
        pair = source.pair(index)
        kinds.add(pair.contrast)
        check_image(pair.fixed, pair.fixed_labels, pair.fixed_visible)
        check_image(pair.moving, pair.moving_labels, pair.moving_visible)
        if pair.phi is not None:
            assert pair.valid is not None
            inside = pair.phi.movedim(1, -1)[pair.valid[:, 0]]
            assert (inside >= -0.5).all()
            assert (inside <= torch.tensor(SHAPE) - 0.5).all()
            assert not (pair.valid & ~pair.fixed_visible).any()
    assert kinds == {"same", "near", "unrelated"}


def check_image(image: torch.Tensor, labels: torch.Tensor, visible: torch.Tensor) -> None:
    assert image.dtype == torch.float32
    assert image.shape == labels.shape == visible.shape == (1, 1, *SHAPE)
    assert torch.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert (image[~visible] == 0).all()
    assert (labels[~visible] == 0).all()


def test_nearly_all_pairs_show_something() -> None:
    settings = replace(PLAIN, real_fraction=0.0, crop_fraction=0.6, translation=0.3)
    source = PairSynthesiser(replace(settings, slab_fraction=0.3), seed=1)
    shown = []
    for index in range(30):
        pair = source.pair(index)
        tissue = pair.fixed_labels > 0
        shown.append(float((tissue if pair.valid is None else tissue & pair.valid).float().mean()))
    assert np.mean(np.array(shown) >= 0.01) > 0.9


def test_stripped_tissue_is_shown_nowhere_and_not_valid() -> None:
    labels = torch.zeros(30, 30, 30, dtype=torch.long)
    labels[4:26, 4:26, 4:26] = 1
    labels[9:21, 9:21, 9:21] = 2
    skull = replace(label_map(labels), inner=torch.tensor([False, False, True]))
    source = PairSynthesiser(replace(PLAIN, strip_fraction=1.0), [skull], seed=1)
    for index in range(8):
        pair = source.pair(index, same_map=True)
        assert (pair.fixed_labels != 1).all() or (pair.moving_labels != 1).all()
        assert pair.valid is not None
        assert pair.valid.any()
        assert (pair.fixed_labels[pair.valid] == 2).float().mean() > 0.9


def test_clean_pairs_of_one_contrast_look_alike_at_phi() -> None:
    settings = replace(
        PLAIN, real_fraction=0.0, degradation=0.0, contrast_weights=(1, 0, 0), bend=(0.05, 0.2)
    )
    source = PairSynthesiser(settings, seed=7)
    correlations = []
    for index in range(6):
        pair = source.pair(index, same_map=True)
        assert pair.phi is not None
        assert pair.valid is not None
        warped = sample_linear(pair.moving[0], pair.phi[0])[0]
        seen = pair.valid[0, 0]
        both = torch.stack([pair.fixed[0, 0][seen], warped[seen]])
        correlations.append(float(torch.corrcoef(both)[0, 1]))
    assert np.median(correlations) > 0.9


def test_displacements_are_bounded_contractions() -> None:
    for seed in range(4):
        u = smooth_displacement(Chance(seed), (40, 33, 48), 0.6)
        slopes = torch.stack([g for c in u for g in torch.gradient(c)])
        norm = slopes.square().sum(0).sqrt()
        assert norm.max() <= 0.6 + 1e-4
        assert norm.max() > 0.15  # of use
        jacobian = slopes.reshape(3, 3, -1).permute(2, 0, 1) + torch.eye(3)
        assert torch.linalg.det(jacobian).min() > 0


def test_splines_reproduce_linear_functions() -> None:
    axis = torch.arange(-1, 6).float() / 4  # coefficients of the function x on 4 cells
    lattice = axis[None, :, None, None].expand(1, 7, 7, 7).contiguous()
    field = spline_field(lattice, (9, 5, 5))
    torch.testing.assert_close(field[0, :, 2, 3], torch.linspace(0, 1, 9))


def test_random_people_share_an_anatomy() -> None:
    alike = random_people(Chance(3), (24, 24, 24), 2, variation=0.1)
    apart = random_people(Chance(3), (24, 24, 24), 2, variation=0.9)
    same = [(a.labels == b.labels).float().mean() for a, b in (alike, apart)]
    assert same[0] > same[1]
    assert len(alike[0].labels.unique()) > 3


def test_maps_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "maps.npz"
    array = np.zeros((5, 6, 7), np.uint8)
    array[1:3, 2:6, 3] = 1
    tables = {"tissue": np.array([0, 1]), "inner": np.array([False, True])}
    np.savez(path, a=array, b=array.copy(), t1=np.array([0, 0.5], np.float32), **tables)
    maps = load_label_maps(path, ["b"])
    assert list(maps) == ["b"]
    assert (maps["b"].low, maps["b"].high) == ((1, 2, 3), (2, 5, 3))
    assert list(load_label_maps(path)) == ["a", "b"]
    with pytest.raises(InputError, match="no array c"):
        load_label_maps(path, ["c"])
    with pytest.raises(InputError, match="no such file"):
        load_label_maps(tmp_path / "none.npz")

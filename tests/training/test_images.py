"""Training on image files: cached once, paired, augmented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carl_cli.errors import InputError
from carl_cli.model.network import build_network
from carl_cli.training.cache import fill_cache
from carl_cli.training.config import TrainConfig
from carl_cli.training.data import (
    CachedSet,
    HeldOutPairs,
    ImagePairs,
    _random_turn,
    read_cache,
    training_pairs,
    validation_pairs,
)
from carl_cli.training.distributed import World
from carl_cli.training.loop import train
from carl_cli.training.stage import Work
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair
from carl_cli.training.tables import ImageData, StageConfig
from tests.training.conftest import EASY, RULE, images_data
from tests.training.test_loop import records

CPU = torch.device("cpu")


def stage(shape: tuple[int, int, int] | None) -> StageConfig:
    loss = {"similarity": 1.0}
    return StageConfig.model_validate({"name": "s", "steps": 1, "shape_zyx": shape, "loss": loss})


def source(
    images: list[np.ndarray],
    shape: tuple[int, int, int] | None = None,
    *,
    kind: type[ImagePairs] = ImagePairs,
    labels: list[np.ndarray] | None = None,
    masks: list[np.ndarray] | None = None,
    pairs: list[tuple[int, int]] | None = None,
    seed: int = 0,
    **values: Any,
) -> ImagePairs:
    none = [None] * len(images)
    cached = CachedSet(images, labels or none, masks or none, pairs or [])
    return kind(images_data(images="unused", **values), [cached], stage(shape), seed, CPU)


def arrays(count: int = 2, side: int = 6) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.random((side, 8, 10)).astype(np.float16) for _ in range(count)]


def test_images_are_centred_on_the_grid_of_the_stage() -> None:
    pairs = source(arrays(), (8, 8, 10), pairs=[(0, 1)])
    drawn = {bool(torch.equal(pairs.pair(k).fixed, pairs.pair(0).fixed)) for k in range(20)}
    assert drawn == {True, False}  # both orders of the pair
    whole = torch.zeros(8, 8, 10)
    for array in arrays():
        whole[1:7] = torch.from_numpy(array.astype(np.float32))
        pair = next(p for p in map(pairs.pair, range(20)) if torch.equal(p.fixed[0, 0], whole))
        assert not torch.equal(pair.moving, pair.fixed)
        assert pair.fixed_visible.all()


def test_a_grid_that_would_cut_images_is_refused() -> None:
    with pytest.raises(InputError, match="6×8×10 voxels, its grid has 8×4×10"):
        source(arrays(), (8, 4, 10))
    images = [*arrays(1), *arrays(1, side=12)]
    assert source(images).pair(0).fixed.shape[2:] == (12, 8, 10)


def test_ten_thousand_images_need_no_list_of_pairs() -> None:
    pairs = source(arrays(1) * 10_000)
    assert len(pairs) == 10_000 * 9_999
    numbers = {pairs._drawn(Chance(k))[1:] for k in range(200)}
    assert len(numbers) == 200
    assert all(i != j for i, j in numbers)


def test_held_out_images_are_never_trained_on() -> None:
    images = [np.full((4, 4, 4), k / 8, np.float16) for k in range(6)]

    def seen(pairs: ImagePairs, count: int) -> set[tuple[int, int]]:
        drawn = [pairs.pair(k) for k in range(count)]
        return {(round(float(p.fixed.max()) * 8), round(float(p.moving.max()) * 8)) for p in drawn}

    trained = seen(source(images, held_out=2), 200)
    assert trained == {(i, j) for i in range(4) for j in range(4) if i != j}
    assert seen(source(images, held_out=2, kind=HeldOutPairs), 2) == {(4, 5), (5, 4)}
    alone = source(images, held_out=1, kind=HeldOutPairs)
    assert seen(alone, len(alone)) == {p for k in range(5) for p in ((k, 5), (5, k))}
    listed_pairs = [(0, 1), (2, 3), (4, 5)]
    assert seen(source(images, held_out=1, pairs=listed_pairs), 40) == {
        (0, 1), (1, 0), (2, 3), (3, 2)
    }  # fmt: skip
    last = source(images, held_out=1, pairs=listed_pairs, kind=HeldOutPairs)
    assert seen(last, len(last)) == {(4, 5)}


def test_a_stage_measures_on_images_that_it_never_trains_on(
    folder: Path, tmp_path: Path, make_config: Callable[..., TrainConfig]
) -> None:
    data = {"kind": "images", "images": folder, "cache": tmp_path / "cache", "held_out": 1}
    config = make_config([{"loss": {"similarity": 1.0}}], data=data, preprocess=RULE)
    assert isinstance(config.data, ImageData)
    fill_cache(config.data, config.preprocess)
    images = read_cache(config.data, config.preprocess)[0].images
    last = torch.from_numpy(images[-1].astype(np.float32))
    work = Work(config, build_network(config.model), World(0, 1, CPU), 0)

    def showing_it(pair: Pair) -> int:
        return sum(torch.equal(image[0, 0], last) for image in (pair.fixed, pair.moving))

    assert {showing_it(work.held_out.pair(k)) for k in range(4)} == {1}
    assert {showing_it(pair) for k in range(20) for pair in work.batches.batch(k)} == {0}


def test_rendered_pairs_are_measured_on_other_subjects_and_other_shapes(
    tmp_path: Path, make_config: Callable[..., TrainConfig]
) -> None:
    """Subject a is all of label 1, subject b of label 2."""
    body = np.zeros((16, 16, 16), np.uint8)
    body[3:13, 3:13, 3:13] = 1
    tables = {"tissue": np.arange(3), "inner": np.zeros(3, bool)}
    np.savez(tmp_path / "maps.npz", a=body, b=2 * body, **tables)
    settings = {**EASY, "real_fraction": 1.0, "strip_fraction": 0.0}
    data = {"kind": "synthetic", "maps": tmp_path / "maps.npz", "synthesis": settings}
    stages = [{"loss": {"field": 1.0}}]
    named = make_config(stages, data={**data, "train": ("a",), "validation": ("b",)})
    for make, label in ((training_pairs, 1), (validation_pairs, 2)):
        pairs = map(make(named, named.stages[0], CPU).pair, range(5))
        assert {int(v) for pair in pairs for v in pair.fixed_labels.unique()} == {0, label}
    drawn = make_config(stages)
    first, other = (
        make(drawn, drawn.stages[0], CPU).pair(0) for make in (training_pairs, validation_pairs)
    )
    assert not torch.equal(first.fixed_labels, other.fixed_labels)


def test_sets_are_drawn_by_weight_and_never_mixed() -> None:
    sets = [{"images": "a", "weight": 3}, {"images": "b", "contrast": "unrelated"}]
    cached = [CachedSet([a] * 3, [None] * 3, [None] * 3, []) for a in arrays(2)]
    pairs = ImagePairs(images_data(sets=sets), cached, stage(None), 0, CPU)
    contrasts = [pairs.pair(k).contrast for k in range(200)]
    assert contrasts.count("same") == pytest.approx(150, abs=25)  # four standard deviations
    assert set(contrasts) == {"same", "unrelated"}
    for pair in map(pairs.pair, range(20)):
        assert torch.equal(pair.fixed, pair.moving)


def test_recoloured_pairs_keep_their_order_of_intensities() -> None:
    ramp = [np.linspace(0, 1, 240, dtype=np.float16).reshape(4, 6, 10)] * 2
    pairs = list(map(source(ramp, recolour=1.0).pair, range(40)))
    steps = [torch.stack([p.fixed, p.moving]).flatten(1).diff() for p in pairs]
    rising, falling = ([bool((s * sign >= 0).all()) for s in steps] for sign in (1, -1))
    assert all(a or b for a, b in zip(rising, falling, strict=True))  # both images alike
    assert 4 <= sum(falling) <= 20
    assert any(not torch.allclose(p.fixed, p.moving, atol=0.05) for p in pairs)
    assert all(torch.equal(p.fixed, p.moving) for p in map(source(ramp).pair, range(5)))


def test_labels_move_with_their_image() -> None:
    cube = np.zeros((8, 8, 8), np.float16)
    cube[1:4, 2:7, 3:5] = 1
    labels = [(cube > 0).astype(np.uint16) * 9] * 2
    pairs = source([cube] * 2, labels=labels, masks=[cube > 0] * 2, flips=True)
    for pair in map(pairs.pair, range(10)):
        assert torch.equal(pair.fixed_labels == 9, pair.fixed > 0.5)
        assert torch.equal(pair.moving_visible, pair.moving > 0.5)


def test_turns_are_the_48_signed_permutations() -> None:
    turns = {tuple(_random_turn(Chance(k)).flatten().tolist()) for k in range(600)}
    assert len(turns) == 48
    for turn in turns:
        matrix = torch.tensor(turn).reshape(3, 3)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(3))


def test_flips_are_exact_and_alike_for_both_images() -> None:
    cube = [np.random.default_rng(k).random((6, 6, 6)).astype(np.float16) for k in range(2)]
    pair = source(cube, seed=3, flips=True).pair(0)
    both = [torch.from_numpy(a.astype(np.float32)) for a in cube]
    found = [
        (order, flips)
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        for flips in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
        for a, b in (both, both[::-1])
        if torch.allclose(a.permute(order).flip(flips), pair.fixed[0, 0], atol=1e-5)
        and torch.allclose(b.permute(order).flip(flips), pair.moving[0, 0], atol=1e-5)
    ]
    assert len(found) == 1


def test_the_recipe_of_the_paper_runs_on_a_folder(
    folder: Path, tmp_path: Path, make_config: Callable[..., TrainConfig]
) -> None:
    data: dict[str, Any] = {"kind": "images", "images": folder, "cache": tmp_path / "cache"}
    data |= {"flips": True, "affine_noise": 0.05}
    loss = {"similarity": 1.0, "sigma": 2, "regularity": 1.5}
    stages = [
        {"steps": 2, "loss": {**loss, "regulariser": "diffusion"}},
        {"steps": 2, "loss": {**loss, "regulariser": "gradicon"}},
        {"steps": 1, "loss": {**loss, "regulariser": "gradicon"}, "extra_step": True},
    ]
    keeping = {"validation_pairs": 1, "validate_steps": 100}
    config = make_config(stages, data=data, preprocess=RULE)
    assert train(config, tmp_path / "run") == "finished"
    assert [r["stage"] for r in records(tmp_path / "run")] == ["s"] * 5
    assert all({"similarity", "regularity"} <= r.keys() for r in records(tmp_path / "run"))
    held = {**data, "held_out": 2}
    config = make_config(stages, data=held, keeping=keeping, preprocess=RULE)
    with pytest.raises(InputError, match="make no training pair"):
        train(config, tmp_path / "none")

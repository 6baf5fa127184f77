"""Training on image files: cached once, paired, augmented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.model.operators import Registrar
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from carl_cli.training import loop
from carl_cli.training.cache import fill_cache, listed
from carl_cli.training.config import TrainConfig
from carl_cli.training.data import ImagePairs, _random_turn, read_cache
from carl_cli.training.loop import train
from carl_cli.training.stage import StepFigures, Work
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.validation import Scores
from tests.training.test_loop import records

RULE = {"grid_rule": "stretch", "shape_zyx": (16, 16, 16)}
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, grids: dict[str, Grid], make_image: Callable[..., Image]) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("plain", "oblique", "flipped"):
        write_image(images / f"{name}.nii.gz", make_image(grids[name]))
    return images


def test_the_cache_holds_what_the_network_would_see(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fill_cache(folder, cache, RULE)
    arrays, pairs = read_cache(cache)
    assert pairs == []
    paths, _ = listed(folder)
    assert [p.name for p in paths] == ["flipped.nii.gz", "oblique.nii.gz", "plain.nii.gz"]
    from carl_cli.io.images.files import read_image

    image = read_image(paths[1])
    expected = prepare_pair(image, image, PreprocessRule.model_validate(RULE)).fixed.array
    np.testing.assert_allclose(arrays[1], expected, atol=5e-4)  # float16


def test_a_cache_is_made_again_only_when_files_or_rule_change(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fill_cache(folder, cache, RULE)
    first = (cache / "image-00000.npy").stat().st_mtime_ns
    fill_cache(folder, cache, RULE)
    assert (cache / "image-00000.npy").stat().st_mtime_ns == first
    fill_cache(folder, cache, {**RULE, "shape_zyx": (8, 8, 8)})
    assert read_cache(cache)[0][0].shape == (8, 8, 8)


def test_tables_name_images_or_pairs(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    a, b, c = (str(folder / f"{n}.nii.gz") for n in ("plain", "oblique", "flipped"))
    table.write_text(f"fixed,moving\n{a},{b}\n{a},{c}\n")
    paths, pairs = listed(table)
    assert [(str(paths[i]), str(paths[j])) for i, j in pairs] == [(a, b), (a, c)]
    table.write_text(f"image\n{a}\n{c}\n")
    assert listed(table) == ([Path(a), Path(c)], [])
    table.write_text(f"picture\n{a}\n")
    with pytest.raises(InputError, match="picture"):
        listed(table)
    with pytest.raises(InputError, match="two or more"):
        listed(tmp_path)


def arrays(count: int = 2) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.random((6, 8, 10)).astype(np.float16) for _ in range(count)]


def test_images_are_centred_on_the_grid_of_the_stage() -> None:
    source = ImagePairs(arrays(), [(0, 1)], (8, 4, 10), 0, CPU, flips=False, affine_noise=0)
    drawn = {bool(torch.equal(source.pair(k).fixed, source.pair(0).fixed)) for k in range(20)}
    assert drawn == {True, False}  # both orders of the pair
    whole = torch.zeros(8, 4, 10)
    for array in arrays():
        whole[1:7] = torch.from_numpy(array[:, 2:6].astype(np.float32))
        pair = next(p for p in map(source.pair, range(20)) if torch.equal(p.fixed[0, 0], whole))
        assert not torch.equal(pair.moving, pair.fixed)
        assert pair.fixed_visible.all()


@pytest.mark.parametrize("table", [None, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]])
def test_validation_sees_other_images_than_training(
    tmp_path: Path,
    make_config: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    table: list[tuple[int, int]] | None,
) -> None:
    """The last two of five images, or of five pairs, are looked at and never learnt from."""
    for number, array in enumerate(arrays(5)):
        np.save(tmp_path / f"image-{number:05d}.npy", array)
    if table is not None:
        np.save(tmp_path / "pairs.npy", np.array(table))
    data = {"kind": "images", "images": tmp_path, "cache": tmp_path, "held_out": 2}
    stages = [{"steps": 1, "loss": {"similarity": 1.0}}]
    keeping = {"validation_pairs": 1, "validate_steps": 1}
    config = make_config(stages, data=data, preprocess=RULE, keeping=keeping)
    used = {}
    real_step, real_validate = Work.one_step, loop.validate

    def step(work: Work, *rest: int) -> StepFigures:
        used["learnt"] = set(work.source.pairs)  # type: ignore[attr-defined]
        return real_step(work, *rest)

    def validate(network: Registrar, source: ImagePairs, *rest: Any) -> Scores:
        used["looked_at"] = set(source.pairs)
        return real_validate(network, source, *rest)

    monkeypatch.setattr(Work, "one_step", step)
    monkeypatch.setattr(loop, "validate", validate)
    assert train(config, tmp_path / "run") == "finished"
    learnt, looked_at = used["learnt"], used["looked_at"]
    if table is None:
        assert {i for pair in learnt for i in pair} == {0, 1, 2}
        assert {i for pair in looked_at for i in pair} == {3, 4}
    else:
        assert (learnt, looked_at) == (set(table[:3]), set(table[3:]))


def test_turns_are_the_48_signed_permutations() -> None:
    turns = {tuple(_random_turn(Chance(k)).flatten().tolist()) for k in range(600)}
    assert len(turns) == 48
    for turn in turns:
        matrix = torch.tensor(turn).reshape(3, 3)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(3))


def test_flips_are_exact_and_alike_for_both_images() -> None:
    cube = [np.random.default_rng(k).random((6, 6, 6)).astype(np.float16) for k in range(2)]
    source = ImagePairs(cube, [(0, 1)], (6, 6, 6), 3, CPU, flips=True, affine_noise=0)
    pair = source.pair(0)
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
    data |= {"held_out": 0, "flips": True, "affine_noise": 0.05}
    loss = {"similarity": 1.0, "sigma": 2, "regularity": 1.5}
    stages = [
        {"steps": 2, "loss": {**loss, "regulariser": "diffusion"}},
        {"steps": 2, "loss": {**loss, "regulariser": "gradicon"}},
        {"steps": 1, "loss": {**loss, "regulariser": "gradicon"}, "extra_step": True},
    ]
    keeping = {"validation_pairs": 1, "validate_steps": 100}
    config = make_config(stages, data={**data, "held_out": 0}, preprocess=RULE)
    fill_cache(folder, data["cache"], RULE)
    assert train(config, tmp_path / "run") == "finished"
    assert [r["stage"] for r in records(tmp_path / "run")] == ["s"] * 5
    assert all({"similarity", "regularity"} <= r.keys() for r in records(tmp_path / "run"))
    with pytest.raises(InputError, match="make no training pair"):
        train(make_config(stages, data={**data, "held_out": 2}, keeping=keeping), tmp_path / "none")

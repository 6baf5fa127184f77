"""Training on image files: cached once, paired, augmented."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from carl_cli.training.cache import fill_cache, listed
from carl_cli.training.config import TrainConfig
from carl_cli.training.data import ImagePairs, _random_turn, read_cache
from carl_cli.training.loop import train
from carl_cli.training.synthesis.chance import Chance
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


def test_files_that_no_cache_made_are_left_alone(folder: Path, tmp_path: Path) -> None:
    """Issue 19: every *.npy of the folder was removed, the user's own too."""
    cache = tmp_path / "cache"
    cache.mkdir()
    own = [cache / "mine.npy", tmp_path / "beside.npy"]
    for path in own:
        np.save(path, np.arange(3))
    fill_cache(folder, cache, RULE)
    fill_cache(folder, cache, {**RULE, "shape_zyx": (8, 8, 8)})
    (cache / "index.json").write_text(json.dumps({"arrays": ["../beside.npy", "mine.npy"]}))
    with pytest.raises(InputError, match=r"image-00000\.npy is there, and .* does not name it"):
        fill_cache(folder, cache, RULE)
    assert all(np.load(path).tolist() == [0, 1, 2] for path in own)
    assert read_cache(cache)[0][0].shape == (8, 8, 8)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"arrays": 1}', '{"key": "k"}'])
def test_a_damaged_index_counts_as_none(folder: Path, tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "index.json").write_text(text)
    fill_cache(folder, cache, RULE)
    assert len(read_cache(cache)[0]) == 3


def test_a_cache_that_was_cut_short_is_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr("carl_cli.training.cache.read_image", broken_after(2))
        with pytest.raises(KeyboardInterrupt):
            fill_cache(folder, cache, RULE)
    assert len(list(cache.glob("*.npy"))) == 2
    fill_cache(folder, cache, RULE)
    assert len(read_cache(cache)[0]) == 3


def broken_after(count: int) -> Callable[[Path], Image]:
    left = [count]

    def read(path: Path) -> Image:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return read_image(path)

    return read


def test_tables_name_images_or_pairs(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    a, b, c = (str(folder / f"{n}.nii.gz") for n in ("plain", "oblique", "flipped"))
    table.write_text(f"fixed,moving\n{a},{b}\n{a},{c}\n")
    paths, pairs = listed(table)
    assert [(str(paths[i]), str(paths[j])) for i, j in pairs] == [(a, b), (a, c)]
    table.write_text(f"image\n{a}\n{c}\n")
    assert listed(table) == ([Path(a), Path(c)], [])
    bad = {
        f"picture\n{a}\n": "columns picture",
        f"image\n{a}\n{a},{b}\n": "line 3: 2 cells, the header has 1",
        f"fixed,moving\n{a}\n": "line 2: 1 cells, the header has 2",
        f"fixed,moving\n{a},\n": "line 2: a cell is empty",
        f"image\n{a}\n{a}x\n": "line 3: no such file",
        f"image\n{a}\n{a}\0\n": "line 3: ",
        "fixed,moving\n": "no images",
        "": "no images",
    }
    for text, words in bad.items():
        table.write_text(text)
        with pytest.raises(InputError, match=words):
            listed(table)
    table.write_bytes(b"image\n\xff\n")
    with pytest.raises(InputError, match="UTF-8"):
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

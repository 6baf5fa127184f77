"""Training on image files: cached once, paired, augmented."""

from __future__ import annotations

import subprocess
import sys
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
from carl_cli.training.data import CachedSet, HeldOutPairs, ImagePairs, _random_turn, read_cache
from carl_cli.training.loop import train
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.tables import ImageData, ImageSet, StageConfig
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


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> ImageData:
    return images_data(images=folder, cache=tmp_path / "cache")


def images_data(**values: Any) -> ImageData:
    return ImageData.model_validate({"kind": "images", "cache": "unused", **values})


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


def test_the_cache_holds_what_the_network_would_see(data: ImageData) -> None:
    fill_cache(data, RULE)
    (cached,) = read_cache(data, RULE)
    assert cached.pairs == []
    entries, _ = listed(data.sets[0])
    assert [e.image.name for e in entries] == ["flipped.nii.gz", "oblique.nii.gz", "plain.nii.gz"]
    image = read_image(entries[1].image)
    expected = prepare_pair(image, image, PreprocessRule.model_validate(RULE)).fixed.array
    np.testing.assert_allclose(cached.images[1], expected, atol=5e-4)  # float16


def test_what_is_cached_is_made_again_only_when_files_or_rule_change(
    data: ImageData, folder: Path
) -> None:
    fill_cache(data, RULE)
    first = {p: p.stat().st_mtime_ns for p in data.cache.glob("*.npy")}
    fill_cache(data, RULE)
    assert {p: p.stat().st_mtime_ns for p in data.cache.glob("*.npy")} == first
    smaller = {**RULE, "shape_zyx": (8, 8, 8)}
    fill_cache(data, smaller)
    assert read_cache(data, smaller)[0].images[0].shape == (8, 8, 8)
    assert read_cache(data, RULE)[0].images[0].shape == (16, 16, 16)  # both are kept
    image = read_image(folder / "plain.nii.gz")
    write_image(folder / "plain.nii.gz", Image(image.array[::-1].copy(), image.grid))
    before = np.array(read_cache(data, RULE)[0].images[2])
    fill_cache(data, RULE)
    assert not np.array_equal(read_cache(data, RULE)[0].images[2], before)


def test_a_machine_without_the_images_uses_the_cache(data: ImageData, folder: Path) -> None:
    with pytest.raises(InputError, match="does not hold"):
        read_cache(data, RULE)
    fill_cache(data, RULE)
    folder.rename(folder.with_name("elsewhere"))
    fill_cache(data, RULE)
    assert len(read_cache(data, RULE)[0].images) == 3


def test_four_processes_fill_one_stale_cache(data: ImageData, tmp_path: Path) -> None:
    """Each sees whole files, whoever comes first; another rule was cached before."""
    fill_cache(data, {**RULE, "shape_zyx": (8, 8, 8)})
    (tmp_path / "data.json").write_text(data.model_dump_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from carl_cli.training.cache import fill_cache\n"
        "from carl_cli.training.data import read_cache\n"
        "from carl_cli.training.tables import ImageData\n"
        "data = ImageData.model_validate_json(Path(sys.argv[1]).read_text())\n"
        f"rule = {RULE}\n"
        "fill_cache(data, rule)\n"
        "assert [i.shape for i in read_cache(data, rule)[0].images] == [(16, 16, 16)] * 3\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data.json")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()


def test_under_the_physical_rule_a_set_has_one_spacing(
    tmp_path: Path, make_image: Callable[..., Image]
) -> None:
    """As two images that are registered: one that is twice as large is so in the cache, too."""
    folder = tmp_path / "sizes"
    folder.mkdir()
    ball = np.linalg.norm(np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3)), axis=0) < 0.8
    for name, spacing in (("a", 2.0), ("b", 4.0)):
        grid = Grid((24,) * 3, (spacing,) * 3, (0.0,) * 3, tuple(np.eye(3).flatten()))
        write_image(folder / f"{name}.nii.gz", Image(ball.astype(np.float32), grid))
    data = images_data(images=folder, cache=tmp_path / "cache")
    rule = {"grid_rule": "physical", "multiple_of": 8, "max_voxels": 24**3}
    fill_cache(data, rule)
    small, large = (float((image > 0.5).sum()) for image in read_cache(data, rule)[0].images)
    assert large / small == pytest.approx(8, rel=0.15)


def test_tables_name_images_or_pairs(folder: Path, tmp_path: Path) -> None:
    """Paths are relative to the table, wherever it is read from."""
    table = tmp_path / "t.csv"
    a, b, c = (f"images/{n}.nii.gz" for n in ("plain", "oblique", "flipped"))
    table.write_text(f"fixed,moving\n{a},{b}\n{a},{folder / 'flipped.nii.gz'}\n")
    rows = ImageSet(images=table)
    entries, pairs = listed(rows)
    named = [(entries[i].image.name, entries[j].image.name) for i, j in pairs]
    assert named == [("plain.nii.gz", n) for n in ("oblique.nii.gz", "flipped.nii.gz")]
    assert all(entry.image.is_file() for entry in entries)
    table.write_text(f"image,segmentation,mask\n{a},{b},\n{c},,{b}\n")
    (first, second), none = listed(rows)
    assert none == []
    assert first.segmentation == second.mask == tmp_path / b
    assert first.mask is second.segmentation is None
    table.write_text(f"picture\n{a}\n")
    with pytest.raises(InputError, match="picture"):
        listed(rows)
    with pytest.raises(InputError, match="two or more"):
        listed(ImageSet(images=tmp_path))
    with pytest.raises(InputError, match=r"none\.nii"):
        fill_cache(images_data(images=_one_lost(table, a), cache=tmp_path / "cache"), RULE)


def _one_lost(table: Path, image: str) -> Path:
    table.write_text(f"image\n{image}\nimages/none.nii.gz\n")
    return table


def test_segmentations_and_masks_of_folders(folder: Path, tmp_path: Path) -> None:
    """They reach the pair on the network's grid, and only where there are any."""
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("plain", "oblique"):
        image = read_image(folder / f"{name}.nii.gz")
        half = np.zeros(image.array.shape, np.uint16)
        half[: half.shape[0] // 2] = 700
        write_image(labels / f"{name}.nrrd", Image(half, image.grid))
    data = images_data(images=folder, segmentations=labels, masks=labels, cache=tmp_path / "cache")
    fill_cache(data, RULE)
    (cached,) = read_cache(data, RULE)
    flipped, *others = zip(cached.labels, cached.masks, strict=True)
    assert flipped == (None, None)
    for found, mask in others:
        assert found is not None
        assert np.unique(found).tolist() == [0, 700]
        assert (found[:8] == 700).all()
        assert np.array_equal(mask, found > 0)
    pairs = ImagePairs(data, [cached], stage(None), 0, CPU)
    drawn = [pairs.pair(k) for k in range(12)]
    known = [p for p in drawn if p.fixed_labels.any() and p.moving_labels.any()]
    assert known
    assert torch.equal(known[0].fixed_visible, known[0].fixed_labels > 0)
    with pytest.raises(InputError, match="holds no file with the name"):
        listed(ImageSet(images=folder, masks=tmp_path))


@pytest.mark.parametrize("value", [-1, 70000, 0.5])
def test_what_is_no_label_map_is_refused(value: float, folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    image = read_image(folder / "plain.nii.gz")
    write_image(labels / "plain.nii.gz", Image(np.full(image.array.shape, value), image.grid))
    data = images_data(images=folder, segmentations=labels, cache=tmp_path / "cache")
    with pytest.raises(InputError, match="labels from"):
        fill_cache(data, RULE)


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

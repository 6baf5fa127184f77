"""Images, label maps and masks, cached as the network sees them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from carl_cli.training.cache import fill_cache, listed
from carl_cli.training.data import ImagePairs, read_cache
from carl_cli.training.tables import ImageData, ImageSet
from tests.training.conftest import RULE, images_data
from tests.training.test_images import CPU, stage


def test_the_cache_holds_what_the_network_would_see(data: ImageData) -> None:
    fill_cache(data, RULE)
    (cached,) = read_cache(data, RULE)
    assert cached.pairs == []
    entries, _ = listed(data.sets[0])
    assert [e.image.name for e in entries] == ["flipped.nii.gz", "oblique.nii.gz", "plain.nii.gz"]
    image = read_image(entries[1].image)
    expected = prepare_pair(image, image, PreprocessRule.model_validate(RULE)).fixed.array
    np.testing.assert_allclose(cached.images[1], expected, atol=5e-4)  # float16


def test_each_set_has_a_modality_of_its_own(tmp_path: Path) -> None:
    """The same values, as CT between -1000 and 1000 HU, as MR between their own limits."""
    values = np.random.default_rng(0).uniform(-500, 500, (16, 16, 16)).astype(np.float32)
    grid = Grid((16,) * 3, (2.0,) * 3, (0.0,) * 3, tuple(np.eye(3).flatten()))
    (tmp_path / "images").mkdir()
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.nii.gz", Image(values, grid))
    sets = [{"images": tmp_path / "images", "modality": m} for m in ("ct", "mr")]
    data = images_data(sets=sets, cache=tmp_path / "cache")
    fill_cache(data, RULE)
    ct, mr = (one.images[0].astype(np.float32) for one in read_cache(data, RULE))
    np.testing.assert_allclose(ct, (values + 1000) / 2000, atol=1e-3)
    assert mr.min() == pytest.approx(0, abs=1e-3)
    assert mr.max() == pytest.approx(1, abs=1e-3)


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
    with pytest.raises(InputError, match="no such folder or table") as raised:
        listed(ImageSet(images=tmp_path / "none.csv"))
    assert raised.value.hint is not None
    assert "`image`" in raised.value.hint
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

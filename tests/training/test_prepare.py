"""Label files → arrays for training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carl_cli.errors import InputError
from carl_cli.io.images.files import Image, write_image
from carl_cli.training.label_maps import prepare_label_maps
from carl_cli.training.synthesis.shapes import load_label_maps
from tests.conftest import make_grid

LEFT, RIGHT, SKULL = 17, 53, 515  # hippocampi and bone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    maps = tmp_path / "in"
    maps.mkdir()
    for name in ("subject01", "subject02"):
        write_image(maps / f"{name}.nii.gz", Image(array(), make_grid((48, 42, 36), (1.0,) * 3)))
    return maps


def array() -> np.ndarray:
    values = np.zeros((36, 42, 48), np.uint16)
    values[6:30, 6:36, 6:42] = SKULL
    values[12:24, 12:24, 12:18], values[12:24, 12:24, 30:36] = LEFT, RIGHT
    return values


def test_maps_keep_volume_place_and_meaning(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "brains.npz"
    assert prepare_label_maps(folder, path, 1.5, freesurfer=True) == (["subject01", "subject02"], 3)
    values = np.load(path)["values"].tolist()
    assert values == [0, LEFT, RIGHT, SKULL]
    maps = load_label_maps(path)
    assert list(maps) == ["subject01", "subject02"]
    one = maps["subject01"]
    assert tuple(one.labels.shape) == (24, 28, 32)
    assert np.array_equal(
        one.labels.numpy(),
        np.searchsorted(values, array()[::3, ::3, ::3]).repeat(2, 0).repeat(2, 1).repeat(2, 2),
    )  # blocks of 6 mm: 4 voxels of 1.5 mm
    assert one.tissue.tolist() == [0, 1, 1, 3]
    assert one.inner.tolist() == [False, True, True, False]
    assert one.t1 is not None
    assert one.t1[1] == one.t1[2] > one.t1[3]


def test_maps_run_along_lps_whatever_the_files_do(tmp_path: Path) -> None:
    """Each axis of a file is told by where its label lies: to the left, in front, above."""
    values = np.zeros((6, 8, 10), np.uint16)
    values[5, 0, 9] = 1  # superior, anterior, left, of (z, y, x) along LPS
    lps = make_grid((10, 8, 6), (2.0,) * 3)
    turned = {"lps": (lps, values)}
    ras = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    turned["ras"] = (replace(lps, direction=ras), values[:, ::-1, ::-1])
    sagittal = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # index axes: P, I, L
    grid = replace(lps, size_xyz=(8, 6, 10), direction=sagittal)
    turned["sagittal"] = (grid, values.transpose(2, 0, 1)[:, ::-1])
    maps = tmp_path / "turned"
    maps.mkdir()
    for name, (grid, array) in turned.items():
        write_image(maps / f"{name}.nii.gz", Image(np.ascontiguousarray(array), grid))
    prepare_label_maps(maps, tmp_path / "turned.npz", 2.0, freesurfer=False)
    for one in load_label_maps(tmp_path / "turned.npz").values():
        assert np.array_equal(one.labels.numpy(), values)
    assert np.load(tmp_path / "turned.npz")["axes"] == "LPS"


def test_labels_of_any_other_kind_are_tissues_of_their_own(folder: Path, tmp_path: Path) -> None:
    prepare_label_maps(folder, tmp_path / "any.npz", 3.0, freesurfer=False)
    one = load_label_maps(tmp_path / "any.npz")["subject02"]
    assert one.tissue.tolist() == [0, 1, 2, 3]
    assert not one.inner.any()
    assert one.t1 is None


def test_a_folder_without_maps_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no label maps"):
        prepare_label_maps(tmp_path, tmp_path / "x.npz", 2.0, freesurfer=False)

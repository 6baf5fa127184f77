"""Label files → arrays for training."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from carl_cli.io.images.files import Image, write_image
from carl_cli.training.synthesis.shapes import load_label_maps
from tests.conftest import make_grid

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "prepare_label_maps.py"
LEFT, RIGHT, SKULL = 17, 53, 515  # hippocampi and bone


def test_maps_keep_volume_place_and_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    array = np.zeros((36, 42, 48), np.uint16)
    array[6:30, 6:36, 6:42] = SKULL
    array[12:24, 12:24, 12:18], array[12:24, 12:24, 30:36] = LEFT, RIGHT
    (tmp_path / "in").mkdir()
    for name in ("subject01", "subject02"):
        image = Image(array, make_grid((48, 42, 36), (1.0, 1.0, 1.0)))
        write_image(tmp_path / "in" / f"{name}.nii.gz", image)
    monkeypatch.setattr(sys, "argv", ["prepare", str(tmp_path / "in"), str(tmp_path / "out")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "4 labels" in capsys.readouterr().out

    path = tmp_path / "out" / "brains-1.5mm.npz"
    values = np.load(path)["values"].tolist()
    assert values == [0, LEFT, RIGHT, SKULL]
    maps = load_label_maps(path)
    assert list(maps) == ["subject01", "subject02"]
    one = maps["subject01"]
    assert tuple(one.labels.shape) == (24, 28, 32)
    assert np.array_equal(
        one.labels.numpy(),
        np.searchsorted(values, array[::3, ::3, ::3]).repeat(2, 0).repeat(2, 1).repeat(2, 2),
    )  # blocks of 6 mm: 4 voxels of 1.5 mm
    assert one.tissue.tolist() == [0, 1, 1, 3]
    assert one.inner.tolist() == [False, True, True, False]
    assert one.t1 is not None
    assert one.t1[1] == one.t1[2] > one.t1[3]

"""3D Slicer's execution model: a description whose flags exist, and a call as Slicer makes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from carl_cli.cli.app import load
from carl_cli.cli.commands import COMMANDS
from carl_cli.cli.slicer import description
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.transforms.files import write_transform
from carl_cli.transforms import AffineTransform
from tests.conftest import GRIDS


@pytest.mark.parametrize("command", ["register", "warp"])
def test_every_flag_is_an_option_and_every_choice_is_taken(command: str) -> None:
    root = ElementTree.fromstring(description(command).encode())
    assert root.tag == "executable"
    options = {option for p in load(COMMANDS[command]).params for option in p.opts}
    flags = [element.text for element in root.iter("longflag")]
    assert set(flags) <= options
    assert len(flags) >= 4
    places = sorted(int(element.text or "") for element in root.iter("index"))
    assert places == list(range(len(places)))


def test_carl_answers_slicer() -> None:
    command = [sys.executable, "-m", "carl_cli.cli.app", "warp", "--xml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == description("warp") + "\n"
    assert done.stderr == ""


def test_a_call_as_slicer_makes_it(tmp_path: Path) -> None:
    grid = GRIDS["plain"]
    values = np.random.default_rng(0).normal(size=grid.shape_zyx).astype(np.float32)
    write_image(tmp_path / "in.nrrd", Image(values, grid))
    write_transform(tmp_path / "t.h5", AffineTransform(np.eye(3), np.array([2.0, 0, 0])))
    command = [
        sys.executable, "-m", "carl_cli.cli.app", "warp", "--returnparameterfile", tmp_path / "r",
        "--reference", tmp_path / "in.nrrd", "--transform", tmp_path / "t.h5", "--output",
        tmp_path / "out.nrrd", "--interpolation", "nearest", tmp_path / "in.nrrd",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    out = read_image(tmp_path / "out.nrrd").array
    np.testing.assert_array_equal(out[..., :-1], values[..., 1:])

"""A prefix names the program of a transform file, wherever a transform is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.transforms.files import write_transform
from carl_cli.transforms import AffineTransform
from tests.cli.conftest import Carl, carl  # noqa: F401
from tests.conftest import GRIDS, smooth_value
from tests.fields import field_on

FIXED, MOVING = GRIDS["oblique"], GRIDS["flipped"]
SHIFT = AffineTransform(np.eye(3), np.array([6.0, -4.0, 3.0]))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, grid in (("fixed", FIXED), ("moving", MOVING)):
        write_image(f"{name}.nii.gz", image_on(grid))
    write_transform("a.mat", SHIFT, program="greedy")
    write_transform("plain.tfm", SHIFT)
    return tmp_path


def image_on(grid: Grid) -> Image:
    return Image(smooth_value(grid.points_mm()).astype(np.float32), grid)


def test_warp(carl: Carl, files: Path) -> None:  # noqa: F811
    common = ("warp", "moving.nii.gz", "-r", "fixed.nii.gz", "-o")
    write_transform("field.nii.gz", field_on(FIXED))
    write_transform(
        "f.nii.gz", field_on(FIXED), program="fsl", field_grid=FIXED, moving_grid=MOVING
    )
    same = {
        "plain.tfm": "greedy:a.mat",
        "[plain.tfm,1]": "[greedy:a.mat,1]",
        "field.nii.gz": "fsl:f.nii.gz",
    }
    for plain, named in same.items():
        assert carl(*common, "p.nii.gz", "-t", plain, "--overwrite").code == 0
        assert carl(*common, "n.nii.gz", "-t", named, "--overwrite").code == 0
        ours, theirs = (read_image(name).array for name in ("p.nii.gz", "n.nii.gz"))
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.ptp(theirs))


def test_points(carl: Carl, files: Path) -> None:  # noqa: F811
    Path("p.csv").write_text("x,y,z\n1,2,3\n")
    for item in ("greedy:a.mat", "plain.tfm"):
        told = carl("points", "p.csv", "-t", item, "--from", "fixed", "-o", "o.csv", "--overwrite")
        assert told.code == 0
        assert Path("o.csv").read_text() == "x,y,z\n7,-2,6\n"


def test_register_starts_from_it(carl: Carl, files: Path) -> None:  # noqa: F811
    common = ("register", "fixed.nii.gz", "moving.nii.gz", "-o", "t.h5", "--dry-run", "-i")
    assert carl(*common, "greedy:a.mat").code == 0
    assert carl(*common, "greedy:none.mat").code == 3
    assert carl(*common, "a.mat").code == 3


def test_a_table_of_evaluate_names_it(files: Path) -> None:
    from carl_cli.evaluation.cases import CaseFiles

    row = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz", "transform": "greedy:a.mat"}
    case = CaseFiles.model_validate(row, context=files)
    assert case.transform == (f"greedy:{files / 'a.mat'}",)
    assert json.dumps(case.transform)

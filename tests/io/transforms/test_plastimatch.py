"""What `carl` says to do with a B-spline of plastimatch leads to plastimatch's own result."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from carl_cli.errors import InputError
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import read_transform
from tests.conftest import GRIDS
from tests.measured import assert_close

pytestmark = pytest.mark.skipif(
    shutil.which("plastimatch") is None, reason="needs plastimatch (Debian: plastimatch)"
)
GRID = GRIDS["plain"]
SETTINGS = """[GLOBAL]
fixed=fixed.mha
moving=moving.mha
xform_out=b.txt
img_out=theirs.mha
[STAGE]
xform=bspline
impl=plastimatch
metric=mse
max_its=10
grid_spac=20 20 20
res=1 1 1
"""


def blob(centre: list[float], radii: list[float]) -> Image:
    distance = np.linalg.norm((GRID.points_mm() - centre) / radii, axis=-1)
    return Image((1000 * np.exp(-(distance**2))).astype(np.float32), GRID)


def test_its_spline_by_way_of_its_own_converter(tmp_path: Path) -> None:
    write_image(tmp_path / "fixed.mha", blob([0, 0, 0], [20, 16, 14]))
    moving = blob([4, -2, 3], [18, 18, 14])
    write_image(tmp_path / "moving.mha", moving)
    (tmp_path / "settings.txt").write_text(SETTINGS)
    run = {"cwd": tmp_path, "check": True, "capture_output": True}
    subprocess.run(["plastimatch", "register", "settings.txt"], **run)
    with pytest.raises(InputError, match="a B-spline of plastimatch") as refusal:
        read_transform(tmp_path / "b.txt")
    subprocess.run(shlex.split(refusal.value.hint), **run)
    ours = resample(moving, GRID, read_transform(tmp_path / "field.nrrd")).array
    theirs = read_image(tmp_path / "theirs.mha").array
    inner = tuple(slice(3, -3) for _ in range(3))
    assert np.abs(ours - moving.array)[inner].max() > 100
    assert_close(
        ours[inner], theirs[inner], 0.01, file="plastimatch vector field .nrrd", way="read",
        referee="plastimatch", unit="of 1000",
    )  # fmt: skip

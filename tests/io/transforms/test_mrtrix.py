"""MRtrix's affines and warps: mrtransform takes values from the same places."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest

from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, write_image
from carl_cli.io.ras import flip_vectors, voxel_to_ras
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.transforms import AffineTransform, Transform
from tests.conftest import GRIDS
from tests.fields import field_on
from tests.measured import assert_close

pytestmark = pytest.mark.skipif(
    shutil.which("mrtransform") is None, reason="needs mrtransform (Debian: mrtrix3)"
)
MOVING = GRIDS["flipped"]


@pytest.fixture
def coordinates(tmp_path: Path) -> Path:
    """An image that holds the RAS position of each of its voxels, as three volumes."""
    numbers = flip_vectors(MOVING.points_mm()).transpose(2, 1, 0, 3).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(numbers, voxel_to_ras(MOVING)), tmp_path / "moving.nii")
    return tmp_path / "moving.nii"


def mapped_by_mrtrix(image: Path, fixed: Grid, *words: object) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) LPS points of the fixed grid, whose axes MRtrix may exchange, and the mapped ones."""
    template, out = image.with_name("fixed.nii"), image.with_name("out.nii")
    write_image(template, Image(np.zeros(fixed.shape_zyx, np.float32), fixed))
    common = ("-template", template, "-interp", "linear", "-oversample", "1", "-quiet", "-force")
    command = ["mrtransform", image, out, *words, *common]
    subprocess.run([str(word) for word in command], check=True)
    made = nibabel.load(out)
    index = np.stack(np.meshgrid(*map(np.arange, made.shape[:3]), indexing="ij"), axis=-1)
    ras = nibabel.affines.apply_affine(made.affine, index)
    return tuple(flip_vectors(v.reshape(-1, 3)) for v in (ras, np.asarray(made.dataobj)))


def inside(points: np.ndarray, transform: Transform) -> np.ndarray:
    index = apply_affine(MOVING.lps_to_index, transform(points))
    found = np.all((index > 0.01) & (index < np.array(MOVING.size_xyz) - 1.01), axis=-1)
    assert found.mean() > 0.3
    return found


def test_an_affine(
    tmp_path: Path, coordinates: Path, affine: AffineTransform, any_grid: Grid
) -> None:
    path = tmp_path / "a.txt"
    write_transform(path, affine, program="mrtrix")
    points, theirs = mapped_by_mrtrix(coordinates, any_grid, "-linear", path)
    chosen = inside(points, affine)
    points, theirs = points[chosen], theirs[chosen]
    file = "MRtrix affine .txt"
    assert_close(theirs, affine(points), 1e-4, file=file, way="written", referee="MRtrix")
    again = read_transform(f"mrtrix:{path}")(points)
    assert_close(theirs, again, 1e-4, file=file, way="read", referee="MRtrix")


@pytest.mark.parametrize("suffix", [".mif", ".mif.gz", ".nii.gz"])
def test_a_warp(tmp_path: Path, coordinates: Path, suffix: str, any_grid: Grid) -> None:
    """Ours used by mrtransform; what transformcompose makes of it read by us."""
    path, field = tmp_path / f"w{suffix}", field_on(any_grid)
    write_transform(path, field, program="mrtrix", field_grid=any_grid)
    points, theirs = mapped_by_mrtrix(coordinates, any_grid, "-warp", path)
    chosen = inside(points, field)
    points, theirs = points[chosen], theirs[chosen]
    file = "MRtrix warp .mif .mif.gz .nii.gz"
    assert_close(theirs, field(points), 1e-4, file=file, way="written", referee="MRtrix")
    fixed, identity, made = (tmp_path / n for n in ("fixed.nii", "identity.mif", f"c{suffix}"))
    subprocess.run(["warpinit", "-quiet", str(fixed), str(identity)], check=True)
    command = ["transformcompose", "-quiet", path, identity, made, "-template", fixed]
    subprocess.run([str(word) for word in command], check=True)
    inner = any_grid.points_mm()[3:-3, 3:-3, 3:-3]
    again = read_transform(f"mrtrix:{made}")(inner)
    assert_close(again, field(inner), 1e-4, file=file, way="read", referee="MRtrix")

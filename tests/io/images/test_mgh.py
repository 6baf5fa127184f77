"""FreeSurfer's volumes: nibabel's files read as its NIfTI of the same image, ours read by it."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from carl_cli.errors import InputError, OutputError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_any, read_grid, read_image, write_image
from carl_cli.io.ras import voxel_to_ras
from tests.measured import assert_close

DTYPES = ("uint8", "int16", "int32", "float32")


def stored(path: Path, grid: Grid, dtype: str, frames: int = 1) -> np.ndarray:
    shape = (*grid.size_xyz, frames) if frames > 1 else grid.size_xyz
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    for name in (path, path.with_suffix(".nii")):
        kind = nibabel.MGHImage if name == path else nibabel.Nifti1Image
        nibabel.save(kind(values, voxel_to_ras(grid)), name)
    return values


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nibabels_files(tmp_path: Path, suffix: str, dtype: str, any_grid: Grid) -> None:
    values = stored(tmp_path / f"a{suffix}", any_grid, dtype)
    image = read_image(tmp_path / f"a{suffix}")
    assert image.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.array, values.T)
    same = read_image(tmp_path / "a.nii")
    places = image.grid.points_mm(), same.grid.points_mm()  # both headers are single precision
    assert_close(*places, 2e-3, file="FreeSurfer .mgz .mgh", way="read", referee="nibabel")
    assert read_grid(tmp_path / f"a{suffix}") == image.grid


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", [*DTYPES, "uint16", "float64"])
def test_ours_by_nibabel(tmp_path: Path, suffix: str, dtype: str, any_grid: Grid) -> None:
    values = np.random.default_rng(0).integers(0, 200, any_grid.shape_zyx).astype(dtype)
    write_image(tmp_path / f"a{suffix}", Image(values, any_grid))
    made = nibabel.load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asarray(made.dataobj), values.T)
    corners = np.array([[0, 0, 0], np.array(any_grid.size_xyz) - 1])
    expected = nibabel.affines.apply_affine(voxel_to_ras(any_grid), corners)
    places = nibabel.affines.apply_affine(made.affine, corners)
    file = "FreeSurfer .mgz .mgh"
    assert_close(places, expected, 1e-4, file=file, way="written", referee="nibabel")


def test_frames(tmp_path: Path, any_grid: Grid) -> None:
    values = stored(tmp_path / "a.mgz", any_grid, "int16", frames=3)
    image = read_any(tmp_path / "a.mgz")
    assert (image.channels, image.channel_kind) == (3, "time")
    np.testing.assert_array_equal(image.array, np.moveaxis(values.T, 0, -1))
    write_image(tmp_path / "b.mgz", image)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "b.mgz").dataobj, values)


def test_damage_is_refused(tmp_path: Path, any_grid: Grid) -> None:
    path = tmp_path / "a.mgz"
    stored(path, any_grid, "int16")
    whole = path.read_bytes()
    lying = bytearray(gzip.decompress(whole))
    lying[4:8] = (2**30).to_bytes(4, "big")  # voxels along x
    for damaged in (
        gzip.compress(lying),
        whole[:-1000],
        whole[:-8] + b"\0\0\0\0" + whole[-4:],
        b"",
        b"text" * 100,
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            read_image(path)


def test_what_it_can_not_hold_is_said(tmp_path: Path, any_grid: Grid) -> None:
    large = np.full(any_grid.shape_zyx, 2**40)
    with pytest.raises(OutputError, match="32-bit"):
        write_image(tmp_path / "a.mgz", Image(large, any_grid))
    assert not list(tmp_path.iterdir())

"""MRtrix's images: mrconvert is the referee, of headers by hand the format's own words."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest

from carl_cli.errors import InputError, OutputError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, read_any, read_grid, read_image, write_image
from carl_cli.io.ras import flip_vectors, voxel_to_ras
from tests.measured import assert_close

FILE = "MRtrix .mif .mif.gz"
needs_mrtrix = pytest.mark.skipif(
    shutil.which("mrconvert") is None, reason="needs mrconvert (Debian: mrtrix3)"
)


def mrconvert(*words: object) -> None:
    subprocess.run(["mrconvert", "-quiet", "-force", *map(str, words)], check=True)


def at_places_of(stored: nibabel.Nifti1Image, image: Image) -> tuple[np.ndarray, np.ndarray]:
    """Of each voxel of `image`: how far it is from the nearest of `stored`, mm, and its value."""
    ras = flip_vectors(image.grid.points_mm())
    index = nibabel.affines.apply_affine(np.linalg.inv(stored.affine), ras)
    nearest = np.rint(index).astype(int)
    gap = nibabel.affines.apply_affine(stored.affine, nearest) - ras
    return gap, np.asarray(stored.dataobj)[tuple(np.moveaxis(nearest, -1, 0))]


def nifti(path: Path, grid: Grid, dtype: str, volumes: int = 1) -> nibabel.Nifti1Image:
    shape = (*grid.size_xyz, volumes) if volumes > 1 else grid.size_xyz
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(values, voxel_to_ras(grid)), path)
    return nibabel.load(path)


@needs_mrtrix
@pytest.mark.parametrize("suffix", [".mif", ".mif.gz"])
@pytest.mark.parametrize("strides", ["1,2,3", "-3,1,-2", "2,-3,1"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_images_of_mrtrix(
    tmp_path: Path, suffix: str, strides: str, dtype: str, any_grid: Grid
) -> None:
    """In any order of axes and both orders of bytes."""
    stored = nifti(tmp_path / "a.nii", any_grid, dtype)
    order = {"uint8": "uint8", "int16": "int16be"}.get(dtype, dtype + "le")
    path = tmp_path / f"a{suffix}"
    mrconvert(tmp_path / "a.nii", path, "-strides", strides, "-datatype", order)
    image = read_image(path)
    assert image.array.dtype == np.dtype(dtype)
    gap, values = at_places_of(stored, image)
    assert_close(gap, 0, 1e-4, file=FILE, way="read", referee="MRtrix")
    np.testing.assert_array_equal(image.array, values)
    assert read_grid(path) == image.grid


@needs_mrtrix
@pytest.mark.parametrize("strides", ["1,2,3,4", "2,3,4,1", "-2,4,-3,1"])
def test_volumes_bits_and_scaling(tmp_path: Path, strides: str, any_grid: Grid) -> None:
    stored = nifti(tmp_path / "a.nii", any_grid, "int16", volumes=6)
    mrconvert(tmp_path / "a.nii", tmp_path / "a.mif", "-strides", strides)
    image = read_any(tmp_path / "a.mif")
    assert (image.channels, image.channel_kind) == (6, "time")
    np.testing.assert_array_equal(image.array, at_places_of(stored, image)[1])
    nifti(tmp_path / "b.nii", any_grid, "uint8")
    mask = np.asarray(nibabel.load(tmp_path / "b.nii").dataobj) > 100
    stored = nibabel.Nifti1Image(mask.astype(np.uint8), voxel_to_ras(any_grid))
    nibabel.save(stored, tmp_path / "b.nii")
    mrconvert(tmp_path / "b.nii", tmp_path / "b.mif", "-datatype", "bit")
    image = read_image(tmp_path / "b.mif")
    np.testing.assert_array_equal(image.array, at_places_of(stored, image)[1])
    scaled = (tmp_path / "a.mif").read_bytes().replace(b"\nlayout", b"\nscaling: -5,0.5\nlayout", 1)
    offset = int(scaled.split(b"file: . ")[1].split(b"\n")[0])
    added = len(b"scaling: -5,0.5\n")
    scaled = scaled.replace(b"file: . %d" % offset, b"file: . %d" % (offset + added), 1)
    (tmp_path / "s.mif").write_bytes(scaled)
    plain = read_any(tmp_path / "a.mif").array
    np.testing.assert_array_equal(read_any(tmp_path / "s.mif").array, plain * 0.5 - 5)


@needs_mrtrix
@pytest.mark.parametrize("suffix", [".mif", ".mif.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("volumes", [1, 3])
def test_ours_by_mrtrix(
    tmp_path: Path, suffix: str, dtype: str, volumes: int, any_grid: Grid
) -> None:
    shape = (*any_grid.shape_zyx, volumes) if volumes > 1 else any_grid.shape_zyx
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    image = Image(values, any_grid, volumes, channel_kind="time")
    write_image(tmp_path / f"a{suffix}", image)
    mrconvert(tmp_path / f"a{suffix}", tmp_path / "a.nii")
    gap, found = at_places_of(nibabel.load(tmp_path / "a.nii"), image)
    assert_close(gap, 0, 1e-4, file=FILE, way="written", referee="MRtrix")
    np.testing.assert_array_equal(found, values)
    again = read_any(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(again.array, values)
    np.testing.assert_allclose(again.grid.index_to_lps, any_grid.index_to_lps, atol=1e-12)


BY_HAND = (
    b"mrtrix image\ndim: 2,2,3\nvox: 1,2,3\nlayout: -0,+2,+1\ndatatype: UInt8\n"
    b"transform: 1,0,0,10\ntransform: 0,1,0,20\ntransform: 0,0,1,30\nfile: . 192\nEND\n"
)


def test_a_header_by_hand(tmp_path: Path) -> None:
    """x runs fastest and backwards, then z, then y; the transform places voxel (0, 0, 0)."""
    path = tmp_path / "a.mif"
    path.write_bytes(BY_HAND.ljust(192, b"\0") + bytes(range(12)))
    image = read_image(path)
    expected = [[[1, 0], [7, 6]], [[3, 2], [9, 8]], [[5, 4], [11, 10]]]
    np.testing.assert_array_equal(image.array, expected)
    assert image.grid.origin_mm == (-10.0, -20.0, 30.0)
    assert image.grid.spacing_mm == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"mrtrix image", b"mrtrix imag", "does not begin"),
        (b"dim: 2,2,3", b"dim: 2,2,x", "damaged MRtrix header"),
        (b"dim: 2,2,3", b"dim: 2,2,0", "3 axes or 4"),
        (b"dim: 2,2,3", b"dim: 9999999,99999,3", "claims"),
        (b"dim: 2,2,3", b"dim: 2,2,4", "4 bytes of voxels are missing"),
        (b"layout: -0,+2,+1", b"layout: -0,+2,+2", "damaged MRtrix header"),
        (b"UInt8", b"CFloat32LE", "real numbers were expected"),
        (b"UInt8", b"UInt24LE", "damaged MRtrix header"),
        (b"transform: 0,0,1,30\n", b"", "damaged MRtrix header"),
        (b"transform: 0,0,1,30", b"transform: 0,0,nan,30", "not usable"),
        (b"file: .", b"file: a.dat", "another file"),
        (b"END", b"", "a header from"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    path = tmp_path / "a.mif"
    assert old in BY_HAND
    path.write_bytes(BY_HAND.replace(old, new).ljust(192, b"\0") + bytes(range(12)))
    with pytest.raises(InputError, match=words) as refusal:
        read_image(path)
    assert "\n" not in str(refusal.value)


def test_a_damaged_stream_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(BY_HAND.ljust(192, b"\0") + bytes(range(12)))
    path = tmp_path / "a.mif.gz"
    for damaged in (whole[:-9], whole[:-8] + b"\0\0\0\0" + whole[-4:], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            read_image(path)


def test_a_picture_is_not_written(tmp_path: Path) -> None:
    flat = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    with pytest.raises(OutputError, match="a 3D image"):
        write_image(tmp_path / "a.mif", Image(np.zeros((5, 4), np.uint8), flat))
    assert not list(tmp_path.iterdir())


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    """MRtrix has it, ITK and NIfTI don't."""
    header = (
        "mrtrix image\ndim: 3,2,1\nvox: 1,1,1\nlayout: +0,+1,+2\ndatatype: Float16LE\n"
        "transform: 1,0,0,0\ntransform: 0,1,0,0\ntransform: 0,0,1,0\nfile: . 256\nEND\n"
    )
    values = np.array([0.5, -2, 3, 4, 65504, 6], "<f2")
    (tmp_path / "a.mif").write_bytes(header.encode().ljust(256, b"\0") + values.tobytes())
    image = read_image(tmp_path / "a.mif")
    write_image(tmp_path / "a.nii", image)
    assert image.array.dtype == np.float32
    stored = nibabel.load(tmp_path / "a.nii").get_fdata()
    assert stored.ravel(order="F").tolist() == values.astype(float).tolist()

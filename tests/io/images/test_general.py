"""NRRD and MetaImage: headers that lie, geometry that can't be, colour, detached data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.io.images.files import Image, read_any, read_image, write_image
from tests.conftest import make_grid

ARRAY = np.random.default_rng(0).integers(1, 1000, (6, 8, 10)).astype("i2")
SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")

GRID = make_grid((4, 3, 2), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0))


def save(path: Path, compress: bool) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path), compress)
    return path


def edit(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compress", [False, True])
def test_detached_and_attached(tmp_path: Path, suffix: str, compress: bool) -> None:
    image = read_image(save(tmp_path / f"a{suffix}", compress))
    np.testing.assert_array_equal(image.array, ARRAY)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compress", [False, True])
def test_a_header_can_not_make_us_allocate(tmp_path: Path, suffix: str, compress: bool) -> None:
    path = edit(save(tmp_path / f"a{suffix}", compress), b"10 8 6", b"9000 8000 6000")
    with pytest.raises(InputError, match="claims 864000000000 bytes"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kept", [0, 30, 0.5, 0.99])
def test_truncated(tmp_path: Path, suffix: str, compress: bool, kept: float) -> None:
    path = save(tmp_path / f"a{suffix}", compress)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    with pytest.raises(InputError, match=path.name) as refusal:
        read_image(path)
    assert "\n" not in str(refusal.value)


def test_a_checksum_is_compared(tmp_path: Path) -> None:
    """MetaIO hands on what the stream's checksum denies."""
    path = save(tmp_path / "a.mha", True)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), ARRAY)
    with pytest.raises(InputError, match="can't be unpacked"):
        read_image(path)


@pytest.mark.parametrize("line", [b"CompressedData = ", b"BinaryData = ", b"DimSize = "])
def test_a_space_that_is_none_in_ascii(tmp_path: Path, line: bytes) -> None:
    """MetaIO takes it for a part of the value: packed bytes would pass for voxels."""
    path = edit(save(tmp_path / "a.mha", True), line, line[:-1] + b"\xa0")
    with pytest.raises(InputError, match=r" = words, .* expected"):
        read_image(path)


@pytest.mark.parametrize("bad", [b"(0,0,1", b"(0,0 0,1)", b"(0,0,,1)", b"0,0,1)"])
def test_a_vector_that_is_broken(tmp_path: Path, bad: bytes) -> None:
    """NrrdIO takes the first number of two."""
    path = edit(save(tmp_path / "a.nrrd", False), b"(0,0,1)", bad)
    with pytest.raises(InputError, match=r"space directions: .*numbers were expected"):
        read_image(path)


def test_zero_bytes_and_numbers_with_a_tail(tmp_path: Path) -> None:
    """Where a library ends a line or a number, the file says something else."""
    for name, old, new, words in (
        ("a.nrrd", b"endian: little", b"endian: little\0\0", "zero bytes"),
        ("b.mha", b"ObjectType", b"Obje\0ctType", "zero bytes"),
        ("c.nrrd", b"sizes: 10", b"sizes: 1e-320", "sizes: .1e-320"),
        ("d.mha", b"DimSize = 10", b"DimSize = 10.0", "DimSize = .10.0"),
    ):
        path = edit(save(tmp_path / name, False), old, new)
        with pytest.raises(InputError, match=words):
            read_image(path)


def test_a_wrong_size_of_packed_voxels(tmp_path: Path) -> None:
    """MetaIO fills what such a stream lacks with whatever lies in memory."""
    line = b"CompressedDataSize = "
    start, _, rest = save(tmp_path / "a.mha", True).read_bytes().partition(line)
    size, _, end = rest.partition(b"\n")
    for wrong, words in ((int(size) - 9, "the stream is cut"), (int(size) + 9, "the file has")):
        path = tmp_path / "b.mha"
        path.write_bytes(start + line + str(wrong).encode() + b"\n" + end)
        with pytest.raises(InputError, match=words):
            read_image(path)


def test_a_spacing_that_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = edit(save(tmp_path / "a.mha", False), b"ElementSpacing = 1 1 1\n", b"")
    assert read_image(path).grid.spacing_mm == (1.0, 1.0, 1.0)
    assert "no ElementSpacing: 1 mm" in caplog.text


def test_missing_data_file(tmp_path: Path) -> None:
    for suffix, data in ((".nhdr", "a.raw"), (".mhd", "a.raw")):
        path = save(tmp_path / f"a{suffix}", False)
        (tmp_path / data).unlink()
        with pytest.raises(InputError, match=path.name) as refusal:
            read_image(path)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 0 1 1"),
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = nan 1 1"),
        (".mha", b"TransformMatrix = 1 0 0 0 1 0", b"TransformMatrix = 1 0 0 1 0 0"),
        (".mha", b"TransformMatrix = 1 0 0 0 1 0", b"TransformMatrix = 1 0 0 .5 .8 0"),
        (".nrrd", b"(1,0,0) (0,1,0)", b"(0,0,0) (0,1,0)"),
        (".nrrd", b"(1,0,0) (0,1,0)", b"(1,0,0) (1,0,0)"),
        (".nrrd", b"(1,0,0) (0,1,0)", b"(1,0,0) (0.3,1,0)"),
    ],
)
def test_geometry_that_makes_no_sense(tmp_path: Path, suffix: str, old: bytes, new: bytes) -> None:
    path = edit(save(tmp_path / f"a{suffix}", False), old, new)
    with pytest.raises(InputError, match=path.name) as refusal:
        read_image(path)
    assert "\n" not in str(refusal.value)


def test_complex_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(ARRAY.astype("c8"))
    for suffix in (".nrrd", ".mha"):
        sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
        with pytest.raises(InputError, match=r"complex|components"):
            read_image(tmp_path / f"a{suffix}")


def test_vectors_and_colour(tmp_path: Path, grids: dict) -> None:  # type: ignore[type-arg]
    grid = grids["oblique"]
    pixels = np.random.default_rng(0).integers(0, 255, (*grid.shape_zyx, 3)).astype("u1")
    for suffix in (".nrrd", ".mha"):
        path = tmp_path / f"v{suffix}"
        write_image(path, Image(pixels, grid, 3))
        image = read_any(path)
        assert image.grid.matches(grid)
        np.testing.assert_array_equal(image.array, pixels)
        with pytest.raises(InputError, match="3 components per voxel"):
            read_image(path)
    edit(tmp_path / "v.nrrd", b"kinds: vector", b"kinds: RGB-color")
    assert read_any(tmp_path / "v.nrrd").channel_kind == "rgb"
    picture = sitk.GetImageFromArray(pixels[0], isVector=True)
    sitk.WriteImage(picture, str(tmp_path / "p.png"))
    assert read_any(tmp_path / "p.png").channel_kind == "rgb"


def test_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(200))
    with pytest.raises(InputError, match="not a known image format") as refusal:
        read_any(tmp_path / "a.gif")
    assert ".nrrd" in refusal.value.hint


@pytest.mark.parametrize("damage", [lambda data: data[:-400], lambda data: data[:-900] + data[-2:]])
def test_a_damaged_jpeg(
    tmp_path: Path, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """libjpeg fills the rest with grey, and tells of it on stdout."""
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"a\.jpg: damaged: .*Premature|premature"):
        read_image(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", ["A.NII.GZ", "A.Nii", "A.NRRD", "A.MHA"])
def test_suffixes_in_capitals(tmp_path: Path, name: str) -> None:
    """ITK writes none of them, and the message was of a full disk."""
    image = Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), GRID)
    write_image(tmp_path / name, image)
    again = read_image(tmp_path / name)
    assert again.grid == image.grid
    np.testing.assert_array_equal(again.array, image.array)

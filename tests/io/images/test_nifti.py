"""NIfTI corners, with files made by nibabel and by hand."""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError, OutputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, read_any, read_grid, read_image, write_image

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
AFFINE = np.array([[-2.0, 0, 0, 1], [0, 0, 3.0, 2], [0, 2.5, 0, 3], [0, 0, 0, 1]])
SHEARED = AFFINE + np.array([[0, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def save(
    path: Path,
    array: np.ndarray = ARRAY,
    qform: tuple[np.ndarray | None, int] = (AFFINE, 1),
    sform: tuple[np.ndarray | None, int] = (AFFINE, 1),
    kind: type = nib.Nifti1Image,
    **fields: object,
) -> Path:
    image = kind(array, None)
    image.set_qform(*qform)
    image.set_sform(*sform)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def patch(path: Path, at: int, data: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    return path


def check(image: Image, affine: np.ndarray = AFFINE, array: np.ndarray = ARRAY) -> None:
    np.testing.assert_array_equal(image.array, array.T)
    np.testing.assert_allclose(image.grid.index_to_lps, LPS_FROM_RAS @ affine, atol=1e-5)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_both_versions(tmp_path: Path, kind: type, name: str) -> None:
    check(read_image(save(tmp_path / name, kind=kind)))


def test_pairs_and_big_endian(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "pair.img")
    check(read_image(tmp_path / "pair.img"))
    check(read_image(tmp_path / "pair.hdr"))
    (tmp_path / "pair.img").unlink()
    with pytest.raises(InputError, match=r"other half pair\.img is missing"):
        read_image(tmp_path / "pair.hdr")
    swapped = ARRAY.astype(">i2")
    for k, cls in enumerate((nib.Nifti1Image, nib.Nifti2Image)):
        header = cls.header_class(endianness=">")
        header.set_data_dtype(">i2")
        path = tmp_path / f"big{k}.nii"
        nib.save(cls(swapped, AFFINE, header=header), path)
        assert path.read_bytes()[:1] == b"\0"
        image = read_image(path)
        check(image)
        assert image.array.dtype == np.dtype("int16")
        assert image.array.dtype.isnative


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.AnalyzeImage])
def test_voxels_of_a_pair_begin_where_its_header_says(tmp_path: Path, kind: type) -> None:
    """They were read from the file's first byte on; nibabel and ITK heed the header."""
    path = tmp_path / "late.img"
    nib.save(kind(ARRAY, AFFINE), path)
    path.write_bytes(bytes(range(16)) + path.read_bytes())
    header = bytearray(path.with_suffix(".hdr").read_bytes())
    struct.pack_into("<f", header, 108, 16)
    path.with_suffix(".hdr").write_bytes(header)
    assert np.array_equal(np.asarray(nib.load(path).dataobj), ARRAY)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), ARRAY.T)
    assert np.array_equal(read_any(path).array, ARRAY.T)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="voxels"):
        read_any(path)


def test_analyze_is_placed_as_itk_does(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(ARRAY, AFFINE), tmp_path / "old.img")
    image = read_image(tmp_path / "old.hdr")
    theirs = sitk.ReadImage(str(tmp_path / "old.img"))
    np.testing.assert_array_equal(image.array, sitk.GetArrayFromImage(theirs))
    assert image.grid.spacing_mm == pytest.approx(theirs.GetSpacing())
    assert image.grid.direction == theirs.GetDirection()


@pytest.mark.parametrize("scode", range(5))
@pytest.mark.parametrize("qcode", range(5))
def test_the_same_form_as_itk(
    tmp_path: Path, scode: int, qcode: int, caplog: pytest.LogCaptureFixture
) -> None:
    other = AFFINE.copy()
    other[:3, 3] += 20
    path = save(tmp_path / "a.nii", qform=(AFFINE, qcode), sform=(other, scode))
    with caplog.at_level(logging.WARNING):
        grid = read_image(path).grid
    theirs = sitk.ReadImage(str(path))
    assert grid.origin_mm == pytest.approx(theirs.GetOrigin())
    assert ("34.64 mm apart" in caplog.text) == (scode > 0 and qcode > 0)
    assert ("the sform is used" in caplog.text) == (scode == 1 and qcode > 0)


def test_agreeing_forms_are_no_reason_for_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read_image(save(tmp_path / "a.nii", sform=(AFFINE, 2)))
    assert not caplog.text


def test_shear(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="sform is sheared and there is no qform"):
        read_image(save(tmp_path / "a.nii", qform=(None, 0), sform=(SHEARED, 1)), strict=True)
    with caplog.at_level(logging.WARNING):
        check(read_image(save(tmp_path / "b.nii", sform=(SHEARED, 1))))
    assert "the sform is sheared" in caplog.text
    assert "the qform is used" in caplog.text


@pytest.mark.parametrize("volumes", [1, 3])
def test_a_shear_alone_is_resampled(
    volumes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A value that is linear in space keeps its place, to rounding; it is said that it moved."""
    size = (20, 18, 16)
    sheared = np.eye(4)
    sheared[:3, :3] = np.array([[-2, 0.3, 0.5], [0.1, 1.5, -0.4], [0.2, 0.1, 2.5]])
    sheared[:3, 3] = 12, -7, 30
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    values = (apply_affine(sheared, index) @ [1.0, -2.0, 0.5]).astype(np.float32)
    data = np.stack([values * k for k in range(1, volumes + 1)], axis=-1)
    image = nib.Nifti1Image(data if volumes > 1 else values, None)
    image.set_qform(None, 0)
    image.set_sform(sheared, 1)
    nib.save(image, tmp_path / "a.nii")
    with caplog.at_level(logging.WARNING):
        read = read_any(tmp_path / "a.nii")
    assert "the sform is sheared and there is no qform; it was resampled" in caplog.text
    assert read_grid(tmp_path / "a.nii") == read.grid
    place = apply_affine(LPS_FROM_RAS, read.grid.points_mm())
    inside = apply_affine(np.linalg.inv(sheared), place)
    shown = ((inside > 0) & (inside < np.array(size) - 1)).all(axis=-1)
    assert shown.sum() > 0.6 * values.size
    expected = place @ [1.0, -2.0, 0.5]
    for k in range(volumes):
        array = read.array[..., k] if volumes > 1 else read.array
        np.testing.assert_allclose(array[shown], (k + 1) * expected[shown], atol=1e-3)


@pytest.mark.parametrize(("code", "real"), [("i2", "f4"), ("u1", "f4"), ("i4", "f8"), ("f4", "f4")])
def test_slope_and_intercept(tmp_path: Path, code: str, real: str) -> None:
    path = patch(save(tmp_path / "a.nii", ARRAY.astype(code)), 112, struct.pack("<2f", 0.25, -3))
    image = read_image(path)
    assert image.array.dtype == np.dtype(real)
    np.testing.assert_array_equal(image.array, ARRAY.T * 0.25 - 3)
    for unused in ((0.0, 5.0), (1.0, 0.0), (np.nan, np.nan)):
        check(read_image(patch(path, 112, struct.pack("<2f", *unused))))


@pytest.mark.parametrize(("slope", "intercept"), [(1e-300, 0.0), (2.0, 1e300)])
def test_a_slope_beyond_single_precision(tmp_path: Path, slope: float, intercept: float) -> None:
    path = save(tmp_path / "a.nii", ARRAY.astype("i2"), kind=nib.Nifti2Image)
    image = read_image(patch(path, 176, struct.pack("<2d", slope, intercept)))
    np.testing.assert_array_equal(image.array, ARRAY.T * slope + intercept)


def test_further_axes(tmp_path: Path) -> None:
    check(read_image(save(tmp_path / "one.nii", ARRAY[..., None])))
    three = np.stack([ARRAY, ARRAY + 1, ARRAY + 2], axis=-1)
    series = save(tmp_path / "three.nii", three, pixdim=[1, 2, 2.5, 3, 1.5, 1, 1, 1])
    check(read_image(series, time_index=2), array=ARRAY + 2)
    with pytest.raises(InputError, match="a time series of 3 volumes"):
        read_image(series)
    assert read_any(series).time_step == 1.5
    vector = save(tmp_path / "vector.nii", three[:, :, :, None], intent_code=1007)
    image = read_any(vector)
    assert (image.channels, image.channel_kind) == (3, "vector")
    np.testing.assert_array_equal(image.array[..., 1], ARRAY.T + 1)
    with pytest.raises(InputError, match="3 components per voxel"):
        read_image(vector)
    with pytest.raises(InputError, match="5 axes"):
        read_any(save(tmp_path / "five.nii", np.zeros((3, 4, 5, 2, 2), "i2")))


def test_displacements_in_ras_are_turned(tmp_path: Path) -> None:
    field = np.arange(60, dtype="f4").reshape(3, 4, 5, 1, 1) + np.array([0, 100, 200.0], "f4")
    image = read_any(save(tmp_path / "ras.nii", field, intent_code=1006))
    theirs = sitk.ReadImage(str(tmp_path / "ras.nii"))
    np.testing.assert_array_equal(image.array, sitk.GetArrayFromImage(theirs))
    assert image.array[0, 0, 1].tolist() == [-20.0, -120.0, 220.0]


def test_colour(tmp_path: Path) -> None:
    pixels = np.arange(180, dtype="u1").reshape(3, 4, 5, 3)
    packed = pixels.copy().view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    path = save(tmp_path / "rgb.nii.gz", packed)
    image = read_any(path)
    assert (image.channels, image.channel_kind) == (3, "rgb")
    np.testing.assert_array_equal(image.array, pixels.transpose(2, 1, 0, 3))
    with pytest.raises(InputError, match="3 components per voxel"):
        read_image(path)
    for suffix in (".nii", ".nii.gz"):
        write_image(tmp_path / f"again{suffix}", image)
        again = nib.load(tmp_path / f"again{suffix}")
        assert int(again.header["datatype"]) == 128
        np.testing.assert_array_equal(np.asarray(again.dataobj), packed)
        np.testing.assert_allclose(again.affine, AFFINE, atol=1e-5)


def test_complex_and_odd_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="complex voxels"):
        read_any(save(tmp_path / "a.nii", ARRAY.astype("c8")))
    with pytest.raises(InputError, match="datatype 1536"):
        read_any(patch(save(tmp_path / "b.nii"), 70, struct.pack("<h", 1536)))


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -2.0])
def test_spacing_that_makes_no_sense(tmp_path: Path, bad: float) -> None:
    path = save(tmp_path / "a.nii", sform=(None, 0))
    with pytest.raises(InputError, match="voxel spacing"):
        read_image(patch(path, 80, struct.pack("<f", bad)))
    none = save(tmp_path / "b.nii", qform=(None, 0), sform=(None, 0))
    with pytest.raises(InputError, match="voxel spacing"):
        read_image(patch(none, 80, struct.pack("<f", bad)))
    both = save(tmp_path / "c.nii")  # the sform rules, and ITK takes the spacing from pixdim
    with pytest.raises(InputError, match="voxel spacing"):
        read_image(patch(both, 80, struct.pack("<f", bad)))


def test_a_header_that_readers_take_differently(tmp_path: Path) -> None:
    """Each of these means one thing to ITK and another to nibabel."""
    one, two = nib.Nifti1Image, nib.Nifti2Image
    for kind, at, data, words in (
        (one, 252, struct.pack("<h", 256), r"qform and sform code \(256, 1\)"),
        (one, 108, struct.pack("<f", 0), "voxels at byte 0"),
        (one, 112, struct.pack("<2f", 0.5, np.nan), "slope 0.5 and intercept nan"),
        (two, 8, b"\n", "the header is not NIfTI"),
    ):
        path = patch(save(tmp_path / "a.nii", kind=kind), at, data)
        with pytest.raises(InputError, match=words):
            read_image(path)


def test_singular_sform(tmp_path: Path) -> None:
    flat = AFFINE.copy()
    flat[:, 1] = 0
    path = save(tmp_path / "a.nii", qform=(None, 0))
    patch(path, 280, flat[:3].astype("<f4").tobytes())
    with pytest.raises(InputError, match="sform"):
        read_image(path)


def test_nan_and_infinite_voxels(tmp_path: Path) -> None:
    array = ARRAY.astype("f4")
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    path = save(tmp_path / "a.nii", array)
    with pytest.raises(InputError, match="1 voxels are infinite"):
        read_image(path)
    with pytest.raises(InputError, match="2 voxels are NaN or infinite"):
        read_image(path, allow_nan=False)
    assert np.isnan(read_any(path).array[0, 0, 0])


@pytest.mark.parametrize("kept", [0, 1, 100, 347, 351, 352 + 100])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated(tmp_path: Path, kept: int, suffix: str) -> None:
    whole = save(tmp_path / "whole.nii").read_bytes()
    path = tmp_path / f"cut{suffix}"
    data = whole[:kept]
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    with pytest.raises(InputError, match=path.name) as refusal:
        read_image(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("cut", [4, 30])
def test_truncated_gzip_stream(tmp_path: Path, cut: int) -> None:
    whole = save(tmp_path / "whole.nii", np.random.default_rng(0).random((9, 9, 9))).read_bytes()
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(gzip.compress(whole)[:-cut])
    with pytest.raises(InputError, match="damaged or truncated"):
        read_image(path)


def test_one_flipped_bit_in_a_gzip_stream(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 60), dtype="u1")
    packed = bytearray(gzip.compress(save(tmp_path / "whole.nii", noise).read_bytes()))
    packed[len(packed) // 2] ^= 1
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(packed)
    with pytest.raises(InputError, match="damaged or truncated"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_can_not_make_us_allocate(tmp_path: Path, suffix: str) -> None:
    path = patch(save(tmp_path / "a.nii"), 42, struct.pack("<3h", 30000, 30000, 3000))
    if suffix == ".nii.gz":
        path = path.rename(tmp_path / "b.nii.gz")
        path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="claims 5400000000000 bytes"):
        read_any(path)


@pytest.mark.parametrize("dim", [(0, 3, 4, 5), (3, 0, 4, 5), (3, -3, 4, 5), (9, 3, 4, 5)])
def test_dimensions_that_make_no_sense(tmp_path: Path, dim: tuple[int, ...]) -> None:
    path = patch(save(tmp_path / "a.nii"), 40, struct.pack("<4h", *dim))
    with pytest.raises(InputError, match="dimensions"):
        read_any(path)


def test_junk_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "junk.nii").write_bytes(b"hello world" * 100)
    with pytest.raises(InputError, match="not NIfTI"):
        read_any(tmp_path / "junk.nii")
    with pytest.raises(InputError, match="no such file"):
        read_any(tmp_path / "none.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_round_trip_keeps_type_and_place(
    tmp_path: Path, any_grid: Grid, suffix: str, dtype: str
) -> None:
    ends = np.iinfo(dtype) if dtype[0] in "ui" else np.finfo(dtype)
    array = np.zeros(any_grid.shape_zyx, dtype)
    array.flat[:2] = ends.min, ends.max
    array.flat[2:9] = np.arange(7)
    path = tmp_path / f"a{suffix}"
    write_image(path, Image(array, any_grid))
    image = read_any(path)
    assert image.array.dtype == array.dtype
    np.testing.assert_array_equal(image.array, array)
    assert image.grid.matches(any_grid)
    assert read_grid(path) == image.grid
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if ".nii" in suffix:
        theirs = nib.load(path)
        np.testing.assert_array_equal(np.asarray(theirs.dataobj).T, array)
        np.testing.assert_allclose(theirs.affine, LPS_FROM_RAS @ any_grid.index_to_lps, atol=1e-4)


def test_time_series_round_trip(tmp_path: Path, any_grid: Grid) -> None:
    array = np.arange(any_grid.shape_zyx[0] * 3, dtype="i2").reshape(-1, 1, 1, 3)
    array = np.broadcast_to(array, (*any_grid.shape_zyx, 3)).copy()
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        path = tmp_path / f"a{suffix}"
        write_image(path, Image(array, any_grid, 3, channel_kind="time", time_step=2.5))
        image = read_any(path)
        assert (image.channel_kind, image.time_step) == ("time", 2.5)
        np.testing.assert_array_equal(image.array, array)
        assert image.grid.matches(any_grid)


def test_what_can_not_be_written(tmp_path: Path, any_grid: Grid) -> None:
    image = Image(np.zeros(any_grid.shape_zyx, "u1"), any_grid)
    with pytest.raises(OutputError, match="can't write this format"):
        write_image(tmp_path / "a.hdr", image)
    with pytest.raises(OutputError, match="does not exist"):
        write_image(tmp_path / "no" / "a.nii", image)
    assert not list(tmp_path.iterdir())

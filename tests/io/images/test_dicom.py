"""DICOM series made by pydicom: order, gaps, tilt, rescale, photometry, frames, zips, privacy."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from carl_cli.errors import InputError
from carl_cli.io.images.files import read_any, read_grid, read_image, write_image
from tests.measured import assert_close

VOLUME = np.random.default_rng(0).integers(0, 1000, (6, 64, 48)).astype("u2")
ROW, COLUMN = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
NORMAL = np.cross(ROW, COLUMN)
ORIGIN, SPACING, STEP = np.array([-10.0, 20.0, 30.0]), (1.5, 0.75), 2.5
NAME = "Zaphod^Beeblebrox"


def slice_dataset(k: int, series: str = "1.2.3.4") -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{series}.{k + 1}"
    data.PatientName, data.PatientID, data.Modality = NAME, NAME, "CT"
    for field in ("StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments"):
        setattr(data, field, NAME)
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", series
    data.ImagePositionPatient = [f"{v:.6f}" for v in ORIGIN + k * STEP * NORMAL]
    data.ImageOrientationPatient = [*ROW, *COLUMN]
    data.PixelSpacing, data.SliceThickness = list(SPACING), 5.0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = VOLUME.shape[1:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.PixelData = VOLUME[k].tobytes()
    return data


def unchanged(*_: object) -> None:
    """The plain data set."""


def save_series(
    folder: Path, change: Callable[[int, Dataset], None] = unchanged, count: int = 6
) -> Path:
    folder.mkdir(exist_ok=True)
    for k in range(count):
        data = slice_dataset(k)
        change(k, data)
        data.save_as(folder / f"{(k * 5) % 7:03}.dcm", enforce_file_format=True)
    return folder


def refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        read_image(path)
    assert "\n" not in str(refusal.value)
    assert "Zaphod" not in str(refusal.value) + refusal.value.hint


def check(path: Path, expected: np.ndarray) -> None:
    image = read_image(path)
    np.testing.assert_array_equal(image.array, expected)
    corner = image.grid.index_to_lps @ [3, 2, 4, 1]
    by_hand = ORIGIN + 3 * SPACING[1] * ROW + 2 * SPACING[0] * COLUMN + 4 * STEP * NORMAL
    np.testing.assert_allclose(corner[:3], by_hand, atol=1e-5)
    assert read_grid(path) == image.grid


HU = VOLUME.astype("i2") - 1024


def test_slices_are_sorted_by_position_whatever_their_names(tmp_path: Path) -> None:
    check(save_series(tmp_path / "a"), HU)


def test_positions_count_not_numbers(tmp_path: Path) -> None:
    def misnumber(k: int, data: Dataset) -> None:
        data.InstanceNumber = 99 - k

    check(save_series(tmp_path / "a", misnumber), HU)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_encodings(tmp_path: Path, syntax: str) -> None:
    def encode(k: int, data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            data.PixelData = VOLUME[k].byteswap().tobytes()
        data["PixelData"].VR = "OW"

    check(save_series(tmp_path / "a", encode), HU)


def test_run_lengths(tmp_path: Path) -> None:
    def pack(_: int, data: Dataset) -> None:
        data.compress(RLELossless)

    check(save_series(tmp_path / "a", pack), HU)


def test_nested_and_private_elements_are_passed_over(tmp_path: Path) -> None:
    def burden(k: int, data: Dataset) -> None:
        inner = Dataset()
        inner.ImagePositionPatient = [9, 9, 9]
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner, inner])
        outer["ReferencedImageSequence"].is_undefined_length = bool(k % 2)
        data.SourceImageSequence = Sequence([outer])
        data.private_block(0x11, "test", create=True).add_new(1, "OB", b"\xfe\xff\x00\xe0" * 5)

    check(save_series(tmp_path / "a", burden), HU)


def test_zip(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "a")
    names = sorted(folder.iterdir())
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for k, name in enumerate(names):
            archive.write(name, f"../../../{'x' * k}/../escaped{k}.dcm")
    check(tmp_path / "a.zip", HU)
    assert not list(tmp_path.parent.rglob("escaped*"))
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-200])
    refused(tmp_path / "b.zip", "can't be unpacked")


def test_zip_that_claims_too_much(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.dcm", b"DICM")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = (2**31).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", "more than a zip can hold")


@pytest.mark.parametrize("first", [0.5, 1.0])
def test_slopes_that_differ_are_applied_slice_by_slice(tmp_path: Path, first: float) -> None:
    """Whether or not the first slice alone would make whole numbers of a file."""
    values = (first, 0.5, 1.5, 2.5, 0.25, 4.0)

    def rescale(k: int, data: Dataset) -> None:
        data.RescaleSlope, data.RescaleIntercept = str(values[k]), "-3"

    slopes = np.array(values)[:, None, None]
    image = read_image(save_series(tmp_path / "a", rescale))
    np.testing.assert_allclose(image.array, VOLUME * slopes - 3, rtol=1e-6)


def test_monochrome1_is_inverted_over_the_stored_range(tmp_path: Path) -> None:
    def invert(k: int, data: Dataset) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"

    image = read_image(save_series(tmp_path / "a", invert))
    np.testing.assert_array_equal(image.array, 4095 - VOLUME.astype("i4") - 1024)


def test_missing_slice(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "a")
    (folder / f"{(3 * 5) % 7:03}.dcm").unlink()
    refused(folder, r"1 slices are missing: distances from 2\.5 to 5 mm")


GRADIENT = np.array([3.0, -2.0, 5.0])


def save_ramp(folder: Path, places: np.ndarray) -> Path:
    """A series whose value is linear in space: GRADIENT · x + 500, slices at LPS `places`."""
    rows, columns = np.meshgrid(*map(np.arange, VOLUME.shape[1:]), indexing="ij")
    plane = rows[..., None] * SPACING[0] * COLUMN + columns[..., None] * SPACING[1] * ROW

    def paint(k: int, data: Dataset) -> None:
        data.ImagePositionPatient = [f"{v:.6f}" for v in places[k]]
        values = (plane + places[k]) @ GRADIENT
        data.PixelData = np.rint(values + 500).astype("i2").tobytes()
        data.PixelRepresentation, data.BitsStored, data.HighBit = 1, 16, 15
        data.RescaleIntercept = "0"

    return save_series(folder, paint, count=len(places))


@pytest.mark.parametrize("kind", ["uneven", "tilted", "tilted and uneven"])
def test_uneven_and_tilted_slices_are_resampled(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As dcm2niix does it, with a warning; `strict` refuses. Nothing of the volume is cut off."""
    along = np.array([0, 1, 2.3, 3.3, 4.2, 5]) if kind != "tilted" else np.arange(6.0)
    tilt = NORMAL + (np.tan(np.radians(10)) * COLUMN if kind != "uneven" else 0)
    places = ORIGIN + along[:, None] * STEP * tilt
    folder = save_ramp(tmp_path / "a", places)
    image = read_image(folder)
    words = "slices are not evenly spaced" if kind != "tilted" else "tilted by 10°"
    assert f"{words}" in caplog.text
    assert "it was resampled onto an orthogonal grid" in caplog.text
    assert read_grid(folder) == image.grid
    turn = image.grid.direction_matrix
    np.testing.assert_allclose(turn, np.column_stack([ROW, COLUMN, NORMAL]), atol=1e-6)
    points = image.grid.points_mm()
    offset = points - ORIGIN
    z = offset @ NORMAL
    y = (offset - z[..., None] * tilt) @ COLUMN / SPACING[0]
    shown = (y > 0.01) & (y < VOLUME.shape[1] - 1.01)
    assert shown.sum() > 0.9 * VOLUME.size
    expected = points @ GRADIENT + 500
    found, unit = image.array[shown], "grey values (rounded twice)"
    file, referee = f"DICOM, slices {kind}", "closed form"
    assert_close(found, expected[shown], 1.01, file=file, way="read", referee=referee, unit=unit)
    with pytest.raises(InputError, match=words):
        read_image(folder, strict=True)


def test_slices_that_are_shifted_anyhow_are_refused(tmp_path: Path) -> None:
    places = ORIGIN + np.arange(6.0)[:, None] * STEP * NORMAL
    places[3] += 2.0 * ROW
    refused(save_ramp(tmp_path / "a", places), "shifted sideways by up to 2 mm, and not evenly")


def test_two_volumes_at_one_place(tmp_path: Path) -> None:
    def repeat(k: int, data: Dataset) -> None:
        data.ImagePositionPatient = [f"{v:.6f}" for v in ORIGIN + k % 3 * STEP * NORMAL]

    refused(save_series(tmp_path / "a", repeat), "several slices at one position")


def test_mixed_orientations_sizes_and_lost_positions(tmp_path: Path) -> None:
    def turn(k: int, data: Dataset) -> None:
        if k == 3:
            data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]

    def crop(k: int, data: Dataset) -> None:
        if k == 3:
            data.Rows, data.PixelData = 4, VOLUME[k, :4].tobytes()

    def lose(k: int, data: Dataset) -> None:
        if k == 3:
            del data.ImagePositionPatient

    refused(save_series(tmp_path / "a", turn), "different orientations")
    refused(save_series(tmp_path / "b", crop), "different sizes")
    refused(save_series(tmp_path / "c", lose), "1 of 6 slices have no position")


def test_several_series_are_listed_without_a_word_of_the_patient(tmp_path: Path) -> None:
    def split(k: int, data: Dataset) -> None:
        data.SeriesInstanceUID = f"1.2.3.{k % 2}"
        data.ImagePositionPatient = [f"{v:.6f}" for v in ORIGIN + k // 2 * STEP * NORMAL]

    folder = save_series(tmp_path / "a", split)
    refused(folder, r"2 series.*1\.2\.3\.0 \(CT, 3 slices\), 1\.2\.3\.1 \(CT, 3 slices\)")
    chosen = read_image(folder, series_uid="1.2.3.1")
    np.testing.assert_array_equal(chosen.array, HU[1::2])


def multiframe(path: Path, order: list[int], change: Callable[[Dataset], None]) -> Path:
    data = slice_dataset(0)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del data[name]
    for name in ("SliceThickness", "RescaleSlope", "RescaleIntercept"):
        del data[name]
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    measures, turn, rescale, shared = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), 2.5
    turn.ImageOrientationPatient = [*ROW, *COLUMN]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = "1", "-1024", "HU"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([turn])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence([_own_group(k) for k in order])
    data.NumberOfFrames, data.PixelData = len(order), VOLUME[order].tobytes()
    change(data)
    data.save_as(path, enforce_file_format=True)
    return path


def _own_group(k: int) -> Dataset:
    place, own = Dataset(), Dataset()
    place.ImagePositionPatient = [f"{v:.6f}" for v in ORIGIN + k * STEP * NORMAL]
    own.PlanePositionSequence = Sequence([place])
    return own


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]])
def test_frames_of_one_file_are_sorted(tmp_path: Path, order: list[int]) -> None:
    check(multiframe(tmp_path / "a.dcm", order, unchanged), HU)


def test_frames_that_miss_or_repeat(tmp_path: Path) -> None:
    refused(multiframe(tmp_path / "a.dcm", [0, 1, 2, 4, 5], unchanged), "1 slices are missing")
    refused(multiframe(tmp_path / "b.dcm", [0, 1, 2, 0, 1, 2], unchanged), "at one position")

    def forget(data: Dataset) -> None:
        del data.PerFrameFunctionalGroupsSequence

    refused(multiframe(tmp_path / "c.dcm", [0, 1, 2], forget), "3 of 3 slices have no position")


def test_colour_is_refused_for_registration(tmp_path: Path) -> None:
    def paint(k: int, data: Dataset) -> None:
        data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"
        data.PlanarConfiguration, data.BitsAllocated, data.BitsStored, data.HighBit = 0, 8, 8, 7
        data.PixelData = np.repeat(VOLUME[k].astype("u1"), 3).tobytes()
        del data.RescaleSlope, data.RescaleIntercept

    folder = save_series(tmp_path / "a", paint)
    refused(folder, "3 components per voxel")
    image = read_any(folder)
    assert image.channel_kind == "rgb"
    np.testing.assert_array_equal(image.array[..., 2], VOLUME.astype("u1"))


def test_truncated_and_boastful_files(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "a")
    one = folder / "000.dcm"
    whole = one.read_bytes()
    for kept in (100, 140, 400, len(whole) - 10):
        one.write_bytes(whole[:kept])
        refused(folder, r"damaged DICOM|Cannot read requested file")

    def boast(k: int, data: Dataset) -> None:
        data.Rows = data.Columns = 60000

    refused(save_series(tmp_path / "b", boast), "claims 7200000000 bytes")


def test_what_follows_the_pixels(tmp_path: Path) -> None:
    """Padding is no harm; an element longer than the file would be given its memory."""
    folder = save_series(tmp_path / "a")
    one = folder / "000.dcm"
    whole = one.read_bytes()
    for padding in (b"\0", bytes(64), b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0abcd"):
        one.write_bytes(whole + padding)
        check(folder, HU)
    one.write_bytes(whole + b"\xfc\xff\xfc\xffOB\0\0" + (2**31 - 8).to_bytes(4, "little"))
    refused(folder, "damaged DICOM file .an element reaches beyond the end")


@pytest.mark.parametrize("number", ["1e999", "nan"])
def test_numbers_without_an_end(tmp_path: Path, number: str) -> None:
    def change(k: int, data: Dataset) -> None:
        if k == 2:
            data["RescaleIntercept"] = pydicom.DataElement(0x00281052, "LO", number)

    refused(save_series(tmp_path / "a", change), "damaged DICOM header")


@pytest.mark.parametrize(
    "name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_a_number_too_many(tmp_path: Path, name: str) -> None:
    def change(k: int, data: Dataset) -> None:
        if k == 2:
            setattr(data, name, [*getattr(data, name), 1.0])

    refused(save_series(tmp_path / "a", change), "damaged DICOM header")


def test_a_picture_without_a_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def forget(_: int, data: Dataset) -> None:
        del data.ImagePositionPatient, data.PixelSpacing

    folder = save_series(tmp_path / "a", forget)
    grid = read_grid(folder / "000.dcm")
    assert grid.origin_mm == (0.0, 0.0, 0.0)
    assert grid.spacing_mm[:2] == (1.0, 1.0)
    assert "assumed: position (0, 0, 0), pixel spacing (1 mm)" in caplog.text


def test_other_files_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "a")
    (folder / "notes.txt").write_text("hello")
    (folder / "empty").write_bytes(b"")
    check(folder, HU)
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", "no DICOM image found")


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_no_patient_text_reaches_an_output(tmp_path: Path, suffix: str) -> None:
    folder = save_series(tmp_path / "a")
    assert b"Zaphod" in next(folder.iterdir()).read_bytes()
    image = read_image(folder)
    assert "Zaphod" not in repr(image)
    write_image(tmp_path / f"out{suffix}", image, compress=False)
    assert b"Zaphod" not in (tmp_path / f"out{suffix}").read_bytes()


def test_the_referee_agrees_on_what_was_written(tmp_path: Path) -> None:
    data = pydicom.dcmread(save_series(tmp_path / "a") / "000.dcm")
    np.testing.assert_array_equal(data.pixel_array, VOLUME[0])

"""`carl warp --dicom-out`: read back by pydicom and by our reader; UIDs, place, no patient."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import typer
from typer.testing import CliRunner

from carl_cli.cli.warp import warp
from carl_cli.errors import InputError, OutputError, UsageError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.dicom_write import write_dicom_series
from carl_cli.io.images.files import Image, read_image, write_image
from carl_cli.io.transforms.files import write_transform
from carl_cli.transforms import identity
from tests.faults.samples import UID_ROOT, dicom_folder
from tests.measured import assert_close

MakeImage = Callable[..., Image]
SECONDARY = "Secondary Capture Image Storage"
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def run(*arguments: object) -> None:
    app = typer.Typer()
    app.command()(warp)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception


def slices(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def test_place_and_values_by_pydicom(tmp_path: Path, any_grid: Grid, make_image: MakeImage) -> None:
    image = make_image(any_grid, "int16")
    write_dicom_series(tmp_path / "series", image)
    written = slices(tmp_path / "series")
    assert len(written) == any_grid.size_xyz[2]
    for k, data in enumerate(written):
        np.testing.assert_array_equal(data.pixel_array, image.array[k])
        origin = (any_grid.index_to_lps @ [0, 0, k, 1])[:3]
        np.testing.assert_allclose(np.array(data.ImagePositionPatient, float), origin, atol=1e-5)
        turn = np.array(data.ImageOrientationPatient, float).reshape(2, 3)
        np.testing.assert_allclose(turn, any_grid.direction_matrix[:, :2].T, atol=1e-7)
        np.testing.assert_allclose(
            np.array(data.PixelSpacing, float), any_grid.spacing_mm[1::-1], atol=1e-7
        )


def test_our_reader_gives_it_back(tmp_path: Path, any_grid: Grid, make_image: MakeImage) -> None:
    """A left-handed grid comes back with its slices in the other order: the same voxels."""
    image = make_image(any_grid, "int16")
    write_dicom_series(tmp_path / "series", image)
    again = read_image(tmp_path / "series")
    if np.linalg.det(any_grid.direction_matrix) > 0:
        assert again.grid.matches(any_grid)
        np.testing.assert_array_equal(again.array, image.array)
    else:
        np.testing.assert_array_equal(again.array[::-1], image.array)
        corner = any_grid.index_to_lps @ [0, 0, any_grid.size_xyz[2] - 1, 1]
        np.testing.assert_allclose(again.grid.origin_mm, corner[:3], atol=1e-4)


def test_uids_are_new_valid_and_consistent(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "dicom/ct_head_93_slices"
    run(source, "-o", tmp_path / "a.nii.gz", "--dicom-out", tmp_path / "series", "--size", "32")
    old = {str(getattr(d, name)) for d in slices(source) for name in UIDS}
    written = slices(tmp_path / "series")
    for name, count in (("StudyInstanceUID", 1), ("SeriesInstanceUID", 1), ("SOPInstanceUID", 32)):
        new = {str(getattr(d, name)) for d in written}
        assert len(new) == count
        assert not new & old
        assert all(pydicom.uid.UID(uid).is_valid for uid in new)
    for data in written:
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
    assert read_image(tmp_path / "series").grid.matches(read_image(tmp_path / "a.nii.gz").grid)


def test_no_patient_text_is_copied_only_the_frame(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for k, data in enumerate(slices(data_dir / "dicom/mr_17_slices")):
        for name in ("PatientName", "PatientID", "StudyDescription", "SeriesDescription"):
            setattr(data, name, "Zaphod^Beeblebrox")
        data.InstitutionName = data.ReferringPhysicianName = data.ImageComments = "Zaphod"
        data.FrameOfReferenceUID = "1.2.3.4.5"
        data.save_as(folder / f"{k}.dcm")
    run(
        folder, "-r", folder, "-o", tmp_path / "a.nii", "--dicom-out", tmp_path / "series",
        "--log-file", tmp_path / "log.txt", "-v",
    )  # fmt: skip
    outputs = [tmp_path / "a.nii", tmp_path / "log.txt", *(tmp_path / "series").iterdir()]
    assert len(outputs) == 19
    assert b"Zaphod" in (folder / "0.dcm").read_bytes()
    for path in outputs:
        assert b"Zaphod" not in path.read_bytes()
    written = slices(tmp_path / "series")
    assert {str(d.PatientName) for d in written} == {""}
    assert {d.FrameOfReferenceUID for d in written} == {"1.2.3.4.5"}


def header(modality: str) -> pydicom.Dataset:
    data = pydicom.Dataset()
    data.Modality, data.PatientPosition = modality, "FFS"
    data.PatientName, data.PatientID, data.StudyDate = "Zaphod^Beeblebrox", "42", "19780308"
    data.StudyInstanceUID = "1.2.3"
    return data


CLASSES = {"CT": "CT Image Storage", "MR": "MR Image Storage", "PT": SECONDARY, None: SECONDARY}


@pytest.mark.parametrize("modality", CLASSES)
def test_the_modality_is_that_of_the_source(
    modality: str | None, tmp_path: Path, grids: dict[str, Grid]
) -> None:
    """Not of the values: an MR image may be negative, and a CT without air is one."""
    grid = grids["oblique"]
    ramp = np.linspace(-1000, 1000, np.prod(grid.shape_zyx)).reshape(grid.shape_zyx)
    source = header(modality) if modality else None
    write_dicom_series(tmp_path / "s", Image(ramp, grid), "", source)
    written = slices(tmp_path / "s")
    assert {d.SOPClassUID.name for d in written} == {CLASSES[modality]}
    assert {d.Modality for d in written} == {modality or "OT"}
    assert all(len(d.ImageType) >= 3 for d in written)
    assert {d.PatientPosition for d in written} == {"FFS" if modality else ""}
    if modality == "CT":
        assert {d.RescaleType for d in written} == {"HU"}
    values = np.stack([d.pixel_array for d in written])
    assert np.abs(values - ramp).max() <= 0.5


def test_small_real_numbers(
    tmp_path: Path, grids: dict[str, Grid], caplog: pytest.LogCaptureFixture
) -> None:
    grid = grids["oblique"]
    ramp = np.linspace(0, 1, np.prod(grid.shape_zyx)).reshape(grid.shape_zyx)
    write_dicom_series(tmp_path / "mr", Image(ramp.astype("float32"), grid))
    assert "multiplied by 10000" in caplog.text
    values = np.stack([d.pixel_array for d in slices(tmp_path / "mr")])
    assert np.abs(values - ramp * 10000).max() <= 0.51


@pytest.mark.parametrize("choice", ["new", "keep"])
def test_identity(choice: str, data_dir: Path, tmp_path: Path) -> None:
    """One study and one series, which is the source's study only where that is asked for."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k, data in enumerate(slices(data_dir / "dicom/mr_17_slices")):
        data.PatientName, data.PatientID, data.StudyInstanceUID = "Zaphod", "42", "1.2.3"
        data.save_as(folder / f"{k}.dcm")
    out = tmp_path / "series"
    run(folder, "-o", tmp_path / "a.nii", "--dicom-out", out, "--dicom-identity", choice)
    written = slices(out)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime", "PatientName"):
        assert len({str(getattr(d, name)) for d in written}) == 1
    one = written[0]
    kept = (str(one.PatientName), one.PatientID, one.StudyInstanceUID) == ("Zaphod", "42", "1.2.3")
    assert kept == (choice == "keep")
    assert choice == "keep" or (str(one.PatientName), one.PatientID) == ("", "")


SERIES = ("ct_head_93_slices", "mr_17_slices", "ct_10_slices_j2k")


@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="needs dcm2niix (apt install dcm2niix)")
@pytest.mark.parametrize("series", SERIES)
def test_dcm2niix_makes_one_volume_with_the_very_voxels(
    series: str, data_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "nifti"
    out.mkdir()
    run(
        data_dir / "dicom" / series, "-o", tmp_path / "a.nii.gz", "--dicom-out", tmp_path / "s",
        "-t", identity_file(tmp_path),
    )  # fmt: skip
    command = ["dcm2niix", "-o", out, "-b", "n", "-z", "n", "-f", "x", tmp_path / "s"]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = out.iterdir()
    theirs, ours = read_image(made), read_image(tmp_path / "a.nii.gz")
    index = apply_affine(ours.grid.lps_to_index, theirs.grid.points_mm())
    x, y, z = np.moveaxis(np.rint(index).astype(int), -1, 0)
    assert np.abs(index - np.rint(index)).max() < 0.01
    assert theirs.grid.size_xyz == ours.grid.size_xyz
    values, file = (theirs.array, ours.array[z, y, x]), "DICOM series"
    assert_close(*values, 0, file=file, way="written", referee="dcm2niix", unit="(values)")


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (apt: dicom3tools)")
@pytest.mark.parametrize("modality", CLASSES)
@pytest.mark.parametrize("keep", [False, True])
def test_dciodvfy_finds_no_error(
    modality: str | None, keep: bool, tmp_path: Path, grids: dict[str, Grid]
) -> None:
    grid = grids["oblique"]
    image = Image(np.zeros(grid.shape_zyx, np.int16), grid)
    write_dicom_series(tmp_path / "s", image, "", header(modality) if modality else None, keep)
    command = ["dciodvfy", "-new", tmp_path / "s" / "0003.dcm"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "Image\n" in said
    assert "Error" not in said


def identity_file(folder: Path) -> Path:
    write_transform(folder / "identity.tfm", identity(3))
    return folder / "identity.tfm"


def test_refusals(tmp_path: Path, grids: dict[str, Grid], make_image: MakeImage) -> None:
    image = make_image(grids["plain"])
    write_image(tmp_path / "a.nii.gz", image)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep")
    out = tmp_path / "out"
    out.mkdir()
    vectors = Image(np.zeros((*image.grid.shape_zyx, 2), np.float32), image.grid, 2)
    write_image(tmp_path / "v.nii.gz", vectors)
    holed = image.array.astype(np.float32)
    holed[0, 0, 0] = np.nan
    write_image(tmp_path / "nan.nii.gz", Image(holed, image.grid))
    away = replace(image.grid, origin_mm=(900.0, 0.0, 0.0))
    write_image(tmp_path / "away.nii.gz", Image(image.array, away))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="not an empty folder"):
        run(tmp_path / "a.nii.gz", "-o", tmp_path / "b.nii.gz", "--dicom-out", full)
    with pytest.raises(UsageError, match="no DICOM series"):
        run(
            tmp_path / "a.nii.gz", "-o", tmp_path / "b.nii.gz", "--dicom-out", tmp_path / "d",
            "--dicom-identity", "keep",
        )  # fmt: skip
    with pytest.raises(InputError, match="scalar 3D"):
        run(tmp_path / "v.nii.gz", "-o", tmp_path / "b.nii.gz", "--dicom-out", tmp_path / "d")
    away = ("-r", tmp_path / "away.nii.gz", "-f", "nan")
    for words in ((tmp_path / "nan.nii.gz",), (tmp_path / "a.nii.gz", *away)):
        with pytest.raises(InputError, match="NaN or infinite voxels"):
            run(*words, "-o", tmp_path / "b.nii.gz", "--dicom-out", tmp_path / "d")
    with pytest.raises(UsageError, match="named twice"):
        run(tmp_path / "a.nii.gz", "-o", tmp_path / "b", "--dicom-out", tmp_path / "b")
    with pytest.raises(UsageError, match="one input"):
        run(tmp_path / "a.nii.gz", tmp_path / "c.nrrd", "-o", out, "--dicom-out", full)
    with pytest.raises(OutputError, match="does not exist"):
        write_dicom_series(tmp_path / "no" / "series", image)
    with pytest.raises(InputError, match="scalar 3D"):
        write_dicom_series(
            tmp_path / "c", Image(np.zeros((*image.grid.shape_zyx, 2)), image.grid, 2)
        )
    with pytest.raises(InputError, match="NaN"):
        write_dicom_series(tmp_path / "c", Image(image.array * np.nan, image.grid))
    assert sorted(tmp_path.rglob("*")) == before


def test_one_series_of_a_folder_of_two(tmp_path: Path) -> None:
    """Without a reference the frame, too, is that of the series that was chosen."""
    folder = dicom_folder(tmp_path / "two")
    for path in dicom_folder(tmp_path / "other", SeriesInstanceUID="1.2.3").iterdir():
        path.rename(folder / f"other{path.name}")
    chosen = ("--series-uid", "1.2.3", "-o", tmp_path / "w.nii.gz")
    run(folder, *chosen, "--dicom-out", tmp_path / "d")
    assert {s.FrameOfReferenceUID for s in slices(tmp_path / "d")} == {f"{UID_ROOT}300"}

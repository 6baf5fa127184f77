"""Every file of the data folders is read right, or refused with the right line."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import apply_affine
from carl_cli.io.images.files import Image, read_any, read_grid, read_image

ORIENTATIONS = ("AIL", "ASL", "IPL", "LIA", "PIL", "PSL", "RPI", "SLA")
READ = {
    "formats/ct_2d_fixed.mha": "sitk",
    "formats/ct_2d_moving.mha": "sitk",
    "formats/ct_lung_small.mha": "sitk",
    "formats/flair.nrrd": "sitk",
    "formats/nifti2.nii.gz": "nibabel",
    "formats/oblique.mha": "sitk",
    "formats/sheared_sform.nii.gz": "nibabel qform",
    "formats/small.mnc": "nibabel",
    "formats/time_series_4d.nii.gz": "nibabel",
    **{f"formats/one_head_many_orientations/{name}.nii.gz": "nibabel" for name in ORIENTATIONS},
    "dicom/ct_10_slices_j2k": "pydicom",
    "dicom/ct_head_93_slices": "pydicom",
    "dicom/ct_head_93_slices_as_nrrd/CTHeadAxial.nhdr": "sitk",
    "dicom/mr_17_slices": "pydicom",
    **{
        f"dicom/single/{name}.dcm": "pydicom"
        for name in (
            "CT_small",
            "MR_small_RLE",
            "MR_small_bigendian",
            "MR_small_jp2klossless",
            "MR_small_jpeg_ls_lossless",
            "MR_small_padded",
            "enhanced_multiframe",
        )
    },
}
REFUSED = {
    "formats/complex.nii.gz": "complex voxels",
    "dicom/single": "3 series, one was expected",
    "dicom/ct_head_93_slices_as_nrrd": "no DICOM image found",
}
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def test_the_lists_name_every_file(data_dir: Path) -> None:
    named = {*READ, *REFUSED}
    for folder in ("formats", "dicom"):
        for path in (data_dir / folder).rglob("*"):
            own = path.relative_to(data_dir).as_posix()
            folder_of = path.parent.relative_to(data_dir).as_posix()
            data_of_header = path.name == "CTHeadAxial.raw.gz"
            assert path.is_dir() or own in named or folder_of in READ or data_of_header, own


def voxels_at_lps(image: Image, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Random voxels: their LPS positions and their values (of the first component)."""
    array = image.array[..., 0] if image.channels > 1 else image.array
    rng = np.random.default_rng(1)
    index = rng.integers(0, image.grid.size_xyz, (count, image.grid.dimension))
    return apply_affine(image.grid.index_to_lps, index), array[tuple(index.T[::-1])]


def by_sitk(path: Path, points: np.ndarray) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    index = [image.TransformPhysicalPointToIndex(p.tolist()) for p in points]
    return np.array([image[i] for i in index])


def by_nibabel(path: Path, points: np.ndarray, qform: bool) -> np.ndarray:
    image = nib.load(path)
    affine = LPS_FROM_RAS @ (image.get_qform() if qform else image.affine)
    index = apply_affine(np.linalg.inv(affine), points)
    np.testing.assert_allclose(index, np.rint(index), atol=5e-3)
    data = np.asarray(image.dataobj)
    data = data[..., 0] if data.ndim == 4 else data
    return data[tuple(np.rint(index).astype(int).T)]


def by_pydicom(path: Path, points: np.ndarray) -> np.ndarray:
    """Each point's value from the plane that holds it, found by the DICOM formula C.7.6.2.1-1.

    Where pydicom lacks the decoder: the same slice, stored with run lengths.
    """
    if "jpeg_ls" in path.name:
        path = path.with_name("MR_small_RLE.dcm")
    planes = list(dicom_planes(path))
    values = []
    for point in points:
        for origin, row, column, spacing, pixels in planes:
            offset = point - origin
            if len(planes) > 1 and abs(offset @ np.cross(row, column)) > 0.1:
                continue
            across, down = offset @ row / spacing[1], offset @ column / spacing[0]
            values.append(pixels[round(down), round(across)])
            break
    return np.array(values)


def dicom_planes(path: Path):  # type: ignore[no-untyped-def]
    for name in sorted(path.iterdir()) if path.is_dir() else [path]:
        data = pydicom.dcmread(name)
        slope, shift = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
        if "PerFrameFunctionalGroupsSequence" not in data:
            row, column = np.reshape(np.array(data.ImageOrientationPatient, float), (2, 3))
            origin = np.array(data.ImagePositionPatient, float)
            yield origin, row, column, data.PixelSpacing, data.pixel_array * slope + shift
            continue
        for group, pixels in zip(
            data.PerFrameFunctionalGroupsSequence, data.pixel_array, strict=True
        ):
            turn = group.PlaneOrientationSequence[0].ImageOrientationPatient
            row, column = np.reshape(np.array(turn, float), (2, 3))
            origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
            yield origin, row, column, group.PixelMeasuresSequence[0].PixelSpacing, pixels


@pytest.mark.parametrize("name", READ)
def test_values_lie_where_the_referee_has_them(data_dir: Path, name: str) -> None:
    image = read_any(data_dir / name)
    points, values = voxels_at_lps(image)
    referee = READ[name]
    if referee == "sitk":
        expected = by_sitk(data_dir / name, points)
    elif referee == "pydicom":
        expected = by_pydicom(data_dir / name, points)
    else:
        expected = by_nibabel(data_dir / name, points, referee.endswith("qform"))
    assert len(np.unique(values)) > 5
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert read_grid(data_dir / name) == image.grid


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_in_one_line(data_dir: Path, name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name]) as refusal:
        read_any(data_dir / name)
    assert "\n" not in refusal.value.message
    assert refusal.value.hint


def test_dicom_folder_is_the_same_volume_as_its_nrrd(data_dir: Path) -> None:
    dicom = read_image(data_dir / "dicom/ct_head_93_slices")
    nrrd = read_image(data_dir / "dicom/ct_head_93_slices_as_nrrd/CTHeadAxial.nhdr")
    assert dicom.grid.matches(nrrd.grid)
    np.testing.assert_array_equal(dicom.array, nrrd.array)


def test_eight_orientations_are_one_head(data_dir: Path) -> None:
    folder = data_dir / "formats/one_head_many_orientations"
    images = [read_image(folder / f"{name}.nii.gz") for name in ORIENTATIONS]
    points, values = voxels_at_lps(images[0])
    for image in images[1:]:
        index = np.rint(apply_affine(image.grid.lps_to_index, points)).astype(int)
        np.testing.assert_allclose(image.array[tuple(index.T[::-1])], values, rtol=1e-5)


def test_sheared_sform_is_warned_about(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_image(data_dir / "formats/sheared_sform.nii.gz")
    image = nib.load(data_dir / "formats/sheared_sform.nii.gz")
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in image.shape[:3]))))
    q, s = (apply_affine(affine, corners) for affine in (image.get_qform(), image.get_sform()))
    gap_mm = np.linalg.norm(q - s, axis=1).max()
    assert gap_mm > 20
    expected = f"up to {gap_mm:.4g} mm apart (the sform is sheared); the qform is used"
    assert expected in caplog.text


def test_time_series_needs_a_choice(data_dir: Path) -> None:
    path = data_dir / "formats/time_series_4d.nii.gz"
    with pytest.raises(InputError, match="2 volumes"):
        read_image(path)
    with pytest.raises(InputError, match="no volume 2, the file has 2"):
        read_image(path, time_index=2)
    second = np.asarray(nib.load(path).dataobj)[..., 1]
    np.testing.assert_array_equal(read_image(path, time_index=1).array, second.T)
    assert read_any(path).time_step == 2000.0


def test_dicom_series_is_chosen_by_its_uid(data_dir: Path) -> None:
    uid = "1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"
    image = read_image(data_dir / "dicom/single", series_uid=uid)
    assert image.grid.size_xyz == (128, 128, 1)
    with pytest.raises(InputError, match=r"no series 1\.2\.3"):
        read_image(data_dir / "dicom/single", series_uid="1.2.3")

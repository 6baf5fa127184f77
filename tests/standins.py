"""Images by the names of the real ones, for machines without them.

pydicom and nibabel bring files of their tests with them, which are copied. The others are sampled
from closed forms: a head or a chest without any symmetry, in the same formats, modalities and
kinds of geometry as the real files.
"""

from __future__ import annotations

import locale
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image as Picture
from PIL import ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, to_sitk
from tests.conftest import make_grid, rotation

OF_PYDICOM = {
    f"dicom/single/{name}.dcm": f"data/test_files/{name}.dcm"
    for name in ("CT_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_jp2klossless",
                 "MR_small_jpeg_ls_lossless", "MR_small_padded")
}  # fmt: skip
OF_NIBABEL = {
    "formats/nifti2.nii.gz": "tests/data/example_nifti2.nii.gz",
    "formats/small.mnc": "tests/data/small.mnc",
    "formats/time_series_4d.nii.gz": "tests/data/example4d.nii.gz",
}
ORIENTATIONS = ("AIL", "ASL", "IPL", "LIA", "PIL", "PSL", "RPI", "SLA")
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
OBLIQUE = rotation((8, -12, 20))
STUDY = "1.2.826.0.1.3680043.8.498.77"


@contextmanager
def locale_kept() -> Iterator[None]:
    """GDCM leaves the process in the C locale."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def build(folder: Path) -> Path:
    """All stand-ins under `folder`; FileNotFoundError if pydicom or nibabel came without theirs."""
    for package, files in (("pydicom", OF_PYDICOM), ("nibabel", OF_NIBABEL)):
        _copy(package, files, folder)
    _formats(folder / "formats")
    _dicom(folder / "dicom")
    _people(folder)
    _retinas(folder / "retina_vessels")
    return folder


def _copy(package: str, files: dict[str, str], folder: Path) -> None:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    for name, source in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(spec.origin).parent / source, target)


def _save(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_sitk(image), str(path), useCompression=True)


def ellipsoid(
    points_mm: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]
) -> np.ndarray:
    return np.linalg.norm((points_mm - centre) / np.array(radii), axis=-1) < 1


def mr(grid: Grid, seed: int = 0) -> Image:
    """Head with a bright scalp, a ventricle to the left, a spot in front; noise all over."""
    points = grid.points_mm()
    noise = np.random.default_rng(seed).normal(0, 8, (2, *grid.shape_zyx))
    values = 420.0 * ellipsoid(points, (0, 0, 0), (60, 76, 68)[: grid.dimension])
    for centre, radii, change in (
        ((2, -1, 0), (54, 70, 62), -160),
        ((14, 20, 8), (18, 26, 15), -180),
        ((-20, -30, -18), (12, 10, 14), 240),
    ):
        values += change * ellipsoid(points, centre[: grid.dimension], radii[: grid.dimension])
    return Image(np.hypot(values + noise[0], noise[1]).astype(np.float32), grid)


def ct(grid: Grid, seed: int = 0) -> Image:
    """Chest in air, Hounsfield units: fat and muscle, two unlike lungs, a spine."""
    d, points = grid.dimension, grid.points_mm()
    values = np.full(grid.shape_zyx, -1000.0)
    for centre, radii, hounsfield in (
        ((0, 0, 0), (120, 85, 110), 40),
        ((52, -8, 5), (38, 55, 80), -780),
        ((-50, -5, -4), (42, 58, 70), -820),
        ((0, 55, 0), (18, 16, 110), 500),
    ):
        values[ellipsoid(points, centre[:d], radii[:d])] = hounsfield
    values += np.random.default_rng(seed).normal(0, 15, grid.shape_zyx)
    return Image(values.astype(np.int16), grid)


def _formats(folder: Path) -> None:
    flat = Grid((64, 56), (4.0, 4.5), (-130.0, -120.0), (1.0, 0.0, 0.0, 1.0))
    for seed, name in enumerate(("fixed", "moving")):
        _save(folder / f"ct_2d_{name}.mha", ct(flat, seed))
    _save(folder / "ct_lung_small.mha", ct(make_grid((52, 40, 30), (5.0, 5.0, 8.0))))
    _save(folder / "flair.nrrd", mr(make_grid((40, 44, 24), (3.5, 3.8, 6.0))))
    turned = make_grid((48, 40, 30), (3.0, 4.0, 5.0), (10.0, -5.0, 7.0), OBLIQUE)
    _save(folder / "oblique.mha", mr(turned))
    _save(folder / "ct.nii", ct(make_grid((50, 40, 32), (5.0, 5.0, 8.0))))
    _sheared(folder / "ct.nii", folder / "sheared_sform.nii.gz")
    complex_values = np.random.default_rng(0).normal(size=(12, 10, 8)) * (1 + 2j)
    nib.save(
        nib.Nifti1Image(complex_values.astype(np.complex64), np.eye(4)), folder / "complex.nii.gz"
    )
    _orientations(folder / "one_head_many_orientations")


def _sheared(source: Path, target: Path) -> None:
    """As a scanner with a tilted gantry says it: a straight qform, a sheared sform."""
    image = nib.load(source)
    affine = image.get_qform()
    sheared = affine.copy()
    sheared[1, 2] += 0.15 * image.header.get_zooms()[2]
    tilted = nib.Nifti1Image(np.asarray(image.dataobj), affine)
    tilted.set_qform(affine, 1)
    tilted.set_sform(sheared, 1)
    nib.save(tilted, target)
    source.unlink()


def _orientations(folder: Path) -> None:
    folder.mkdir()
    head = mr(make_grid((44, 52, 48), (3.0, 3.2, 3.1), (4.0, -6.0, 8.0)))
    straight = nib.Nifti1Image(head.array.T, RAS_FROM_LPS @ head.grid.index_to_lps)
    for name in ORIENTATIONS:
        turn = ornt_transform(io_orientation(straight.affine), axcodes2ornt(name))
        nib.save(straight.as_reoriented(turn), folder / f"{name}.nii.gz")


def _dicom(folder: Path) -> None:
    head = make_grid((40, 44, 93), (3.6, 3.9, 1.7))
    stored_from_zero = np.clip(ct(head).array + 1000, 0, None).astype(np.int16)
    _series(folder / "ct_head_93_slices", Image(stored_from_zero, head), "CT")
    _save(folder / "ct_head_93_slices_as_nrrd/CTHeadAxial.nhdr", Image(stored_from_zero, head))
    slab = make_grid((48, 40, 17), (2.0, 2.0, 2.0), (2.0, 3.0, -4.0), OBLIQUE)
    values = np.rint(mr(slab).array).astype(np.int16)
    _series(folder / "mr_17_slices", Image(values, slab), "MR")
    chest = ct(make_grid((64, 56, 10), (4.5, 4.0, 5.0)))
    _series(folder / "ct_10_slices_j2k", chest, "CT", jpeg_2000=True)
    _multiframe(folder / "single/enhanced_multiframe.dcm", Image(values, slab))


def _series(folder: Path, image: Image, modality: str, jpeg_2000: bool = False) -> None:
    folder.mkdir(parents=True)
    for k, values in enumerate(image.array):
        data = _data_set(image, modality, f"{STUDY}.{len(folder.name)}", k)
        data.PixelSpacing = list(image.grid.spacing_mm[1::-1])
        data.ImageOrientationPatient = _turn(image.grid)
        data.ImagePositionPatient = _place(image.grid, k)
        data.PixelData = values.astype("<i2").tobytes()
        name = f"{16573 + 2 * k:06d}" if jpeg_2000 else f"IMG{k + 1:04d}"
        data.save_as(folder / f"{name}.dcm", enforce_file_format=True)
        if jpeg_2000:
            _compress(folder / f"{name}.dcm")


def _compress(path: Path) -> None:
    """By ITK: pydicom has no encoder of its own."""
    reader = sitk.ReadImage(str(path))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    with locale_kept():
        writer.Execute(reader)


def _multiframe(path: Path, image: Image) -> None:
    data = _data_set(image, "MR", f"{STUDY}.1", 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    data.NumberOfFrames = image.grid.size_xyz[2]
    data.PerFrameFunctionalGroupsSequence = Sequence(
        _frame(image.grid, k) for k in range(image.grid.size_xyz[2])
    )
    data.PixelData = image.array.astype("<i2").tobytes()
    data.save_as(path, enforce_file_format=True)


def _frame(grid: Grid, k: int) -> Dataset:
    place, turn, measures, frame = Dataset(), Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient, turn.ImageOrientationPatient = _place(grid, k), _turn(grid)
    measures.PixelSpacing, measures.SliceThickness = (
        list(grid.spacing_mm[1::-1]),
        grid.spacing_mm[2],
    )
    frame.PlanePositionSequence = Sequence([place])
    frame.PlaneOrientationSequence = Sequence([turn])
    frame.PixelMeasuresSequence = Sequence([measures])
    return frame


def _turn(grid: Grid) -> list[str]:
    return [f"{v:.10f}" for v in grid.direction_matrix[:, :2].T.ravel()]


def _place(grid: Grid, k: int) -> list[str]:
    return [f"{v:.8f}" for v in (grid.index_to_lps @ [0, 0, k, 1])[:3]]


def _data_set(image: Image, modality: str, series: str, k: int) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}[modality]
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{series}.{k + 1}"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = STUDY, series, modality
    data.PatientName, data.PatientID = "Anonymous", "anonymous-1"
    data.FrameOfReferenceUID, data.InstanceNumber = f"{STUDY}.9", k + 1
    data.Columns, data.Rows = image.grid.size_xyz[:2]
    data.SliceThickness = image.grid.spacing_mm[2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    return data


def _people(folder: Path) -> None:
    _save(folder / "ct_abdomen/ct.nii.gz", ct(make_grid((60, 48, 30), (5.0, 4.5, 8.0))))
    _save(folder / "brain_t1/image_A.nii.gz", mr(make_grid((48, 56, 52), (3.0, 3.0, 3.0))))
    for k, name in enumerate(("0004", "0006", "0007")):
        grid = make_grid((48 + 2 * k, 64, 26), (7.8, 7.8, 7.8), (5.0 * k, -8.0 * k, 3.0))
        _save(folder / f"lung_mr_lobes/{name}.nii.gz", _lungs_in_mr(grid, k))
        _save(folder / f"lung_mr_lobes/{name}_seg.nii.gz", _lobes(grid))
    for k, name in enumerate(("subject01", "subject04", "subject09")):
        grid = make_grid((60, 72, 66), (2.2, 2.3 + 0.1 * k, 2.2))
        values = mr(grid, k).array
        labels = np.where(ellipsoid(grid.points_mm(), (0, 0, 0), (60, 76, 68)), 1 + values // 50, 0)
        _save(folder / f"brain_label_maps/{name}.nii.gz", Image(labels.astype(np.int16), grid))


def _lungs_in_mr(grid: Grid, seed: int) -> Image:
    hounsfield = ct(grid, seed).array
    values = np.where(hounsfield > -300, 300, 30) * (hounsfield > -950) + 6
    noise = np.random.default_rng(seed).normal(0, 6, values.shape)
    return Image(np.abs(values + noise).astype(np.float32), grid)


def _lobes(grid: Grid) -> Image:
    """Three lobes in the right lung, two in the left, cut across the body."""
    points = grid.points_mm()
    z = points[..., 2] + 0.3 * points[..., 1]
    right, left = (
        ellipsoid(points, c, r)
        for c, r in (((-50, -5, -4), (42, 58, 70)), ((52, -8, 5), (38, 55, 80)))
    )
    labels = np.select([right, left], [1 + (z > -25) + (z > 20), 4 + (z > 0)], 0)
    return Image(labels.astype(np.uint8), grid)


def _retinas(folder: Path) -> None:
    folder.mkdir()
    for number in (1, 2, 21, 22, 23):
        picture = Picture.new("L", (565, 584))
        draw = ImageDraw.Draw(picture)
        for line, width in _vessels(np.random.default_rng(number)):
            draw.line(line, fill=255, width=width)
        picture.save(folder / f"{number:02d}_manual1.gif")


def _vessels(chance: np.random.Generator) -> Iterator[tuple[list[tuple[float, float]], int]]:
    """Twelve winding lines from a point at the side, thinner and thinner."""
    for k in range(12):
        x, y, heading = 140.0, 290.0, np.radians(30 * k + chance.uniform(-8, 8))
        for width in (7, 5, 4, 3):
            line = [(x, y)]
            for _ in range(6):
                heading += chance.normal(0, 0.25)
                x, y = x + 14 * np.cos(heading), y + 14 * np.sin(heading)
                line.append((x, y))
            yield line, width

"""Sound files of every kind that carl reads, small enough to be damaged by the thousand."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, to_sitk, write_image
from carl_cli.io.transforms.files import write_transform
from carl_cli.transforms import AffineTransform, CompositeTransform, DisplacementField
from carl_cli.workflows.phantom import make_phantom
from tests.cli.weights_folder import untrained_weights
from tests.conftest import make_grid, rotation, smooth_value

GRID = make_grid((12, 10, 6), (1.5, 2.0, 2.5), (3.0, -4.0, 5.0), rotation((8, -12, 20)))
POINTS = np.array([[1.5, -2.25, 3.0], [-4.0, 5.5, 6.125], [0.0, 10.0, -7.75], [2.5, 3.5, 4.5]])
UID_ROOT = "1.2.826.0.1.3680043.8.498."


@dataclass(frozen=True)
class Sample:
    """path: what carl is given. target: the file that is damaged. text: it holds numbers as
    text."""

    path: Path
    target: Path
    text: bool = False


Make = Callable[[Path], Sample]


def image(dtype: str = "int16", grid: Grid = GRID) -> Image:
    return Image(np.rint(smooth_value(grid.points_mm())).astype(dtype), grid)


def displacement() -> DisplacementField:
    points = GRID.points_mm()
    values = 2.0 * np.sin(points / 10.0) + np.array([0.5, -0.25, 1.0])
    return DisplacementField(GRID, values.astype(np.float32))


def affine() -> AffineTransform:
    return AffineTransform(rotation((5, 3, -7)) * 1.1, np.array([1.5, -2.0, 3.25]))


def _alone(path: Path, text: bool = False) -> Sample:
    return Sample(path, path, text)


def _image_file(name: str, dtype: str = "int16", text: bool = False, packed: bool = True) -> Make:
    def make(folder: Path) -> Sample:
        write_image(folder / name, image(dtype), compress=packed)
        return _alone(folder / name, text)

    return make


def _scaled_nifti(folder: Path) -> Sample:
    """NIfTI-1 with a slope, by nibabel."""
    path = folder / "scaled.nii"
    values = image().array.transpose(2, 1, 0)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.index_to_lps
    made = nibabel.Nifti1Image(values, to_ras)
    made.header.set_slope_inter(0.5, -100.0)
    made.to_filename(path)
    return _alone(path)


def _nifti2(folder: Path) -> Sample:
    path = folder / "second.nii"
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.index_to_lps
    nibabel.Nifti2Image(image("float32").array.transpose(2, 1, 0), to_ras).to_filename(path)
    return _alone(path)


def _pair(folder: Path) -> Sample:
    path = folder / "pair.img"
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.index_to_lps
    nibabel.Nifti1Pair(image().array.transpose(2, 1, 0), to_ras).to_filename(path)
    return Sample(path, folder / "pair.hdr")


def _detached(folder: Path) -> Sample:
    path = folder / "detached.mhd"
    sitk.WriteImage(to_sitk(image()), str(path))
    return _alone(path, text=True)


def _picture(name: str) -> Make:
    def make(folder: Path) -> Sample:
        values = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8) * 4
        sitk.WriteImage(sitk.GetImageFromArray(values), str(folder / name))
        return _alone(folder / name)

    return make


def dicom_slice(number: int, **fields: object) -> pydicom.Dataset:
    """Slice `number` of a small CT series; `fields` are keywords of further elements."""
    grid = GRID
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    uid = f"{UID_ROOT}{number + 1}"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = uid
    made.Modality, made.SeriesInstanceUID = "CT", f"{UID_ROOT}100"
    made.StudyInstanceUID, made.FrameOfReferenceUID = f"{UID_ROOT}200", f"{UID_ROOT}300"
    made.InstanceNumber, made.SamplesPerPixel = number + 1, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = grid.size_xyz[1], grid.size_xyz[0]
    made.PixelSpacing = [grid.spacing_mm[1], grid.spacing_mm[0]]
    made.SliceThickness = grid.spacing_mm[2]
    axes = grid.direction_matrix
    made.ImageOrientationPatient = [f"{v:.9f}" for v in axes[:, :2].T.ravel()]
    place = grid.index_to_lps @ [0, 0, number, 1]
    made.ImagePositionPatient = [f"{v:.6f}" for v in place[:3]]
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.RescaleSlope, made.RescaleIntercept = "1", "-1024"
    made.PixelData = (image().array[number] + 1024).astype("<i2").tobytes()
    for keyword, value in fields.items():
        setattr(made, keyword, value)
    return made


def dicom_folder(folder: Path, **fields: object) -> Path:
    folder.mkdir()
    for number in range(GRID.size_xyz[2]):
        dicom_slice(number, **fields).save_as(
            folder / f"slice{number}.dcm", enforce_file_format=True
        )
    return folder


def _dicom(folder: Path) -> Sample:
    series = dicom_folder(folder / "series")
    return Sample(series, series / "slice2.dcm", text=True)


def _dicom_single(folder: Path) -> Sample:
    path = folder / "single.dcm"
    dicom_slice(1).save_as(path, enforce_file_format=True)
    return _alone(path, text=True)


def _dicom_zip(folder: Path) -> Sample:
    series, path = dicom_folder(folder / "zipped"), folder / "series.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(series.iterdir()):
            archive.write(file, file.name)
    shutil.rmtree(series)
    return _alone(path)


def _transform_file(name: str, linear: bool = False, precision: str = "float") -> Make:
    def make(folder: Path) -> Sample:
        parts = CompositeTransform((affine(), displacement()))
        path = folder / name
        write_transform(path, affine() if linear else parts, precision=precision)  # type: ignore[arg-type]
        return _alone(path, text=path.suffix in (".tfm", ".txt"))

    return make


def _points_file(name: str) -> Make:
    def make(folder: Path) -> Sample:
        from carl_cli.io.points.files import WRITERS

        labels = tuple(f"point {k}" for k in range(len(POINTS)))
        path = folder / name
        suffix = name.removeprefix("points")
        path.write_bytes(WRITERS[suffix](POINTS, labels))
        return _alone(path, text=True)

    return make


def _weights(target: str, hashed: bool = True) -> Make:
    def make(folder: Path) -> Sample:
        made = untrained_weights(folder / "weights")
        if not hashed:
            config = json.loads((made / "config.json").read_text())
            config["files"] = {}
            (made / "config.json").write_text(json.dumps(config, indent=2))
        return Sample(made, made / target, text=target.endswith("json"))

    return make


def phantom_pair(folder: Path, voxel_mm: float = 12.0) -> tuple[Path, Path]:
    """Two small images of one anatomy: fixed, moving."""
    phantom = make_phantom(seed=1, voxel_mm=voxel_mm)
    paths = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    for path, made in zip(paths, (phantom.fixed, phantom.moving), strict=True):
        write_image(path, made)
    return paths


def fresh_uid() -> str:
    return str(generate_uid())


IMAGES: dict[str, Make] = {
    "nifti": _image_file("plain.nii"),
    "nifti gz": _image_file("packed.nii.gz", "float32"),
    "nifti scaled": _scaled_nifti,
    "nifti 2": _nifti2,
    "nifti pair": _pair,
    "nrrd raw": _image_file("plain.nrrd", text=True, packed=False),
    "nrrd gzip": _image_file("packed.nrrd", "float32", text=True),
    "mha raw": _image_file("plain.mha", text=True, packed=False),
    "mha zlib": _image_file("packed.mha", "uint8", text=True),
    "mhd + raw": _detached,
    "png": _picture("picture.png"),
    "tiff": _picture("picture.tif"),
    "jpeg": _picture("picture.jpg"),
    "dicom series": _dicom,
    "dicom file": _dicom_single,
    "dicom zip": _dicom_zip,
}
TRANSFORMS: dict[str, Make] = {
    "h5 composite": _transform_file("composite.h5"),
    "h5 double": _transform_file("composite.h5", precision="double"),
    "tfm affine": _transform_file("affine.tfm", linear=True),
    "txt affine": _transform_file("affine.txt", linear=True),
    "mat affine": _transform_file("affine.mat", linear=True),
    "field nifti": _transform_file("field.nii.gz"),
    "field nrrd": _transform_file("field.nrrd"),
    "field mha": _transform_file("field.mha"),
}
POINT_FILES: dict[str, Make] = {
    "points csv": _points_file("points.csv"),
    "points txt": _points_file("points.txt"),
    "points fcsv": _points_file("points.fcsv"),
    "points mrk.json": _points_file("points.mrk.json"),
    "points vtk": _points_file("points.vtk"),
}
WEIGHTS: dict[str, Make] = {
    "weights config": _weights("config.json"),
    "weights tensors": _weights("model.safetensors"),
    "weights unhashed": _weights("model.safetensors", hashed=False),
}

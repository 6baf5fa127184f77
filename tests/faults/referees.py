"""What other readers make of a file: the voxels and their places, a transform's numbers, points.

They are lenient on purpose: a file that carl takes has to mean the same to them. `Unknown`
says that a referee has no opinion on a file.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from nibabel.spatialimages import HeaderDataError

Array = np.ndarray[Any, np.dtype[Any]]
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Unknown(Exception):
    """The referee can't read this file, or not all of it."""


@dataclass(frozen=True)
class Picture:
    """array: (z, y, x[, c]) or (y, x[, c]); places: the index → LPS matrices that the file
    may be held to mean."""

    array: Array
    places: tuple[Array, ...]


def by_simpleitk(path: Path) -> Picture:
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
    read = sitk.ReadImage(names)
    return Picture(sitk.GetArrayFromImage(read), (affine_of(read),))


def affine_of(read: sitk.Image) -> Array:
    count = min(read.GetDimension(), 3)
    axes = np.reshape(read.GetDirection(), (read.GetDimension(),) * 2)[:count, :count]
    affine = np.eye(count + 1)
    affine[:-1, :-1] = axes * read.GetSpacing()[:count]
    affine[:-1, -1] = read.GetOrigin()[:count]
    return affine


def by_nibabel(path: Path) -> Picture:
    try:
        read: Any = nibabel.load(path, mmap=False)
    except (ValueError, HeaderDataError) as error:
        if "read length" in str(error) or "extension" in str(error):  # no voxel lies by one
            raise Unknown from None
        raise
    if len(read.shape) < 3:
        raise Unknown
    values = np.asanyarray(read.dataobj)
    places = []
    if hasattr(read, "get_sform"):
        forms = read.get_sform(coded=True)[0], _qform(read)
        places = [TO_LPS @ form for form in forms if form is not None]
    array = np.moveaxis(values, (0, 1, 2), (2, 1, 0))
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[..., 0, :]
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 4 and int(read.header["intent_code"]) == 1006:
        array = array * np.array([-1, -1, 1])[: array.shape[-1]]
    return Picture(array, tuple(places))


def _qform(read: Any) -> Array | None:
    """None also for a quaternion that is none, if there is a sform beside it."""
    try:
        form: Array | None = read.get_qform(coded=True)[0]
    except ValueError:
        if read.get_sform(coded=True)[0] is None:
            raise
        return None
    return form


def by_text_header(path: Path) -> Picture:
    """NRRD and MetaImage, as their specifications have them; the usual fields only."""
    content = path.read_bytes()
    return _nrrd(content) if content.startswith(b"NRRD") else _meta(content, path.parent)


NRRD_TYPES = {
    "short": "i2", "int16": "i2", "float": "f4", "double": "f8", "unsigned char": "u1",
    "uchar": "u1", "uint8": "u1", "ushort": "u2", "unsigned short": "u2", "int": "i4",
}  # fmt: skip


def _nrrd(content: bytes) -> Picture:
    head, blank, data = content.partition(b"\n\n")
    if not blank or b"\r" in head:
        raise Unknown
    fields: dict[str, str] = {}
    for line in head.decode("latin-1").split("\n")[1:]:
        if not line.startswith("#") and ": " in line:
            key, value = line.split(": ", 1)
            fields[key.lower().strip()] = value.strip()
    known = {
        "type", "dimension", "space", "sizes", "space directions", "kinds", "endian", "encoding",
        "space origin", "content", "measurement frame",
    }  # fmt: skip
    if not fields.keys() <= known or fields.get("space") != "left-posterior-superior":
        raise Unknown
    if fields.get("encoding") in ("gzip", "gz"):
        data = zlib.decompress(data, 31)
    elif fields.get("encoding") != "raw":
        raise Unknown
    order = "<" if fields.get("endian", "little").lower() == "little" else ">"
    dtype = np.dtype(order + NRRD_TYPES[fields["type"]])
    sizes = [int(word) for word in fields["sizes"].split()]
    directions = fields["space directions"].replace("none", "").strip().split(") (")
    columns = [_vector(text) for text in directions]
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(columns)
    affine[:3, 3] = _vector(fields["space origin"])
    return Picture(_filled(data, dtype, sizes[::-1]), (affine,))


def _vector(text: str) -> list[float]:
    return [float(word) for word in text.strip("() ").split(",")]


META_TYPES = {
    "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_UCHAR": "u1", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8", "MET_CHAR": "i1", "MET_INT": "i4", "MET_UINT": "u4",
}  # fmt: skip


def _meta(content: bytes, folder: Path) -> Picture:
    head = re.match(rb"(?s).*?ElementDataFile = ([^\n]*)\n", content)
    if head is None:
        raise Unknown
    lines = head[0].decode("latin-1").splitlines()
    pairs = (line.split("=", 1) for line in lines if line.strip())
    fields = {k.strip(): v.strip() for k, v in pairs}
    known = {
        "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData",
        "CompressedDataSize", "TransformMatrix", "Offset", "CenterOfRotation", "ElementSpacing",
        "DimSize", "AnatomicalOrientation", "ElementType", "ElementDataFile",
        "ElementNumberOfChannels",
    }  # fmt: skip
    if not fields.keys() <= known or fields.get("BinaryData") != "True":
        raise Unknown
    if "ElementSpacing" not in fields:  # 1 mm, by MetaIO
        raise Unknown
    named = fields["ElementDataFile"]
    data = content[head.end() :] if named == "LOCAL" else (folder / named).read_bytes()
    packed = fields.get("CompressedData", "False")
    if packed == "True":
        data = zlib.decompressobj().decompress(data)
    elif packed != "False" or fields.get("BinaryDataByteOrderMSB") != "False":
        raise Unknown
    sizes = [int(word) for word in fields["DimSize"].split()]
    axes = np.reshape([float(w) for w in fields["TransformMatrix"].split()], (3, 3))
    affine = np.eye(4)
    affine[:3, :3] = axes.T * [float(w) for w in fields["ElementSpacing"].split()]
    affine[:3, 3] = [float(w) for w in fields["Offset"].split()]
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    shape = sizes[::-1] + ([channels] if channels > 1 else [])
    return Picture(
        _filled(data, np.dtype("<" + META_TYPES[fields["ElementType"]]), shape), (affine,)
    )


def _filled(data: bytes, dtype: np.dtype[Any], shape: list[int]) -> Array:
    count = int(np.prod(shape))
    if len(data) < count * dtype.itemsize:
        raise ValueError("too few bytes of voxels")
    return np.frombuffer(data, dtype, count).reshape(shape)


NEEDED = {"PixelData", "PixelRepresentation", "PixelSpacing", "ImagePositionPatient"}


def by_pydicom(path: Path) -> Picture:
    with tempfile.TemporaryDirectory() as folder:
        files = [path]
        if path.is_dir():
            files = sorted(path.iterdir())
        elif path.suffix == ".zip":
            files = _unzipped(path, Path(folder))
        slices = [pydicom.dcmread(file, force=True) for file in files]
        if not all(set(made.dir()) >= NEEDED for made in slices):
            return Picture(by_simpleitk(path).array, ())  # carl says what it assumes
        return _stacked(slices)


def _unzipped(path: Path, folder: Path) -> list[Path]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for number, member in enumerate(members):
            (folder / str(number)).write_bytes(archive.read(member))
    return [folder / str(number) for number in range(len(members))]


def _stacked(slices: list[Any]) -> Picture:
    axes = np.reshape(np.array(slices[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(*axes)
    slices.sort(key=lambda made: float(normal @ np.array(made.ImagePositionPatient, float)))
    if any(made.PhotometricInterpretation not in GREY for made in slices):
        raise Unknown  # pydicom has no opinion on a word that it does not know
    planes = [
        made.pixel_array * float(made.get("RescaleSlope", 1) or 1)
        + float(made.get("RescaleIntercept", 0) or 0)
        for made in slices
    ]
    places = [np.array(made.ImagePositionPatient, float) for made in slices]
    step = float(slices[0].get("SliceThickness", 1) or 1)
    if len(slices) > 1:
        step = float((places[-1] - places[0]) @ normal) / (len(slices) - 1)
    rows, columns = (float(v) for v in slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([axes[0] * columns, axes[1] * rows, normal * step])
    affine[:3, 3] = places[0]
    return Picture(np.stack(planes), (affine,))


GREY = ("MONOCHROME1", "MONOCHROME2")
IMAGE_READERS = {
    "nifti": by_nibabel, "nrrd": by_text_header, "mha": by_text_header, "mhd": by_text_header,
    "dicom": by_pydicom,
}  # fmt: skip


def picture_of(kind: str, path: Path) -> Picture:
    """Of the referee for this kind, or, where it has no opinion, of SimpleITK."""
    word = kind.removeprefix("field ").split()[0]
    reader = IMAGE_READERS.get(word, by_simpleitk)
    try:
        return reader(path)
    except Unknown:
        return by_simpleitk(path)


def numbers_of_h5(path: Path) -> list[Array]:
    """(parameters, fixed parameters) of every transform in an ITK HDF5 file, in file order."""
    found = []
    with h5py.File(path, "r") as file:
        group = file["TransformGroup"]
        for name in sorted(group, key=int):
            part = group[name]
            kind = part["TransformType"][0].decode("latin-1")
            if kind.startswith("CompositeTransform"):
                continue
            # ITK 5 spells it so, ITK 4 has no such letters at the end
            keys = [next(k for k in part if k.startswith(w)) for w in ("TransformP", "TransformF")]
            values, fixed = (np.asarray(part[key][()], float) for key in keys)
            found += _plain(kind, values, fixed)
    return found


def numbers_of_text(path: Path) -> list[Array]:
    text = path.read_text("latin-1")
    lines = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    fields = {key.strip(): value.strip() for key, value in lines}
    numbers = (fields["Parameters"], fields["FixedParameters"])
    values, fixed = (np.array(words.split(), float) for words in numbers)
    return _plain(fields["Transform"], values, fixed)


def numbers_of_mat(path: Path) -> list[Array]:
    import scipy.io

    read = {k: np.ravel(v) for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    kind = next(name for name in read if "Transform" in name)
    return _plain(kind, read[kind].astype(float), read["fixed"].astype(float))


def _plain(kind: str, values: Array, fixed: Array) -> list[Array]:
    """A linear map without its centre: matrix, translation."""
    if not kind.startswith(("AffineTransform", "MatrixOffset")):
        return [values, fixed]
    count = 3 if values.size == 12 else 2
    matrix = values[: count * count].reshape(count, count)
    centre = np.zeros(count) if fixed.size == 0 else fixed
    return [matrix, values[count * count :] + centre - matrix @ centre]


TRANSFORM_READERS = {"h5": numbers_of_h5, "tfm": numbers_of_text, "txt": numbers_of_text,
                     "mat": numbers_of_mat}  # fmt: skip


def points_of(path: Path) -> Array:
    """(N, 3) numbers in LPS."""
    content = path.read_bytes()
    suffix = "".join(path.suffixes)
    if suffix == ".csv":
        rows = list(csv.DictReader(StringIO(content.decode("utf-8-sig"), newline="")))
        clean = [{str(k).strip().lower(): v for k, v in row.items()} for row in rows]
        return _three([[row[axis] for axis in "xyz"] for row in clean])
    if suffix == ".txt":
        separated = re.sub("[,;]", " ", content.decode())
        lines = [line.split() for line in separated.splitlines()]
        return _three([line[:3] for line in lines if _numeric(line[:3])])
    if suffix == ".fcsv":
        text = content.decode()
        points = [row for row in text.splitlines() if row.strip() and not row.startswith("#")]
        cells = [next(csv.reader([row])) for row in points]
        lps = re.search(r"#\s*CoordinateSystem\s*=\s*(LPS|1)\s*$", text, re.MULTILINE)
        return _three([row[1:4] for row in cells]) * (1 if lps else np.array([-1, -1, 1]))
    if suffix == ".mrk.json":
        return _markups(json.loads(content))
    words = content.split()
    at = words.index(b"POINTS")
    count = int(words[at + 1])
    flip = np.array([-1, -1, 1]) if b"SPACE=RAS" in content else 1
    return _three(np.reshape(words[at + 3 : at + 3 + 3 * count], (count, 3)).tolist()) * flip


def _markups(document: Any) -> Array:
    values = []
    for markup in document["markups"]:
        flip = np.array([-1, -1, 1]) if markup.get("coordinateSystem", "LPS") in ("RAS", "0") else 1
        for point in markup.get("controlPoints", []):
            if point.get("positionStatus", "defined") != "undefined":
                values.append(np.array(point["position"], float) * flip)
    return np.reshape(values, (-1, 3))


def _three(cells: Any) -> Array:
    if any("_" in str(cell) for row in cells for cell in np.atleast_1d(row)):
        raise ValueError("an underscore in a number")
    return np.array(cells, float).reshape(-1, 3)


def _numeric(words: list[str]) -> bool:
    try:
        return len([float(word) for word in words]) == 3
    except ValueError:
        return False

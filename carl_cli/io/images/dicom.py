"""DICOM folders, files and zips → one image, with the geometry checked slice by slice.

Pixels come from GDCM (every transfer syntax, rescale, MONOCHROME1 inverted); which slices
belong together, their order and where they lie is decided here. Names and free text of the
header reach neither the image nor any message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.errors import InputError, UsageError
from carl_cli.geometry import Grid
from carl_cli.io.images import dicom_header as header
from carl_cli.io.images.dicom_slices import SAME_ORIENTATION, Frame, arrange
from carl_cli.io.images.dicom_write import IDENTITY
from carl_cli.io.images.dicom_zip import unpacked
from carl_cli.io.images.image import Image
from carl_cli.io.images.irregular import warn
from carl_cli.io.sitk_bridge import GZIP_LIMIT, execute

if TYPE_CHECKING:
    from pydicom import Dataset

APPLE_DOUBLE = b"\x00\x05\x16\x07"
SUFFIXES = (".dcm", ".dicom", ".ima")
RAW_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
UID = r"[0-9.]{1,64}"


@dataclass(frozen=True)
class DicomFile:
    """What one file says about its frames."""

    path: Path
    series: str
    frame_uid: str
    modality: str
    shape: tuple[int, int, int]
    frames: tuple[Frame, ...]


def is_dicom(path: Path) -> bool:
    """A folder, a zip, a DICOM suffix, or a file with the DICM mark."""
    if path.is_dir() or path.suffix.lower() in (*SUFFIXES, ".zip"):
        return True
    return header.starts_like_dicom(path)


def check_series_uid(uid: str | None, paths: Iterable[Path]) -> None:
    """Raise UsageError where a series is chosen and none of the images is DICOM."""
    there = [path for path in paths if path.is_file() or path.is_dir()]
    if uid is not None and not any(map(is_dicom, there)):
        raise UsageError(f"--series-uid {uid}: no image is DICOM", "leave the option out")


def read_dicom(path: Path, series_uid: str | None = None, strict: bool = False) -> Image:
    """Read one series: a folder (searched below too), a file or a zip of files.

    Slices are sorted along their normal; integers that fit come back as int16. A tilted gantry and
    uneven slices are resampled with a warning, or refused if `strict`. Raises InputError for
    several series without a choice, missing or repeated slices and what GDCM can't decode.
    """
    with unpacked(path) as root:
        files, frames = _select(path, root, series_uid)
        arrangement = arrange(path, frames, files[0].shape)
        pixels = _read_pixels(path, files, frames)
    if arrangement.odd:
        warn(path, arrangement.odd, strict or pixels.ndim > 3)
    array, grid = arrangement.applied(pixels), arrangement.grid
    channels = array.shape[3] if array.ndim == 4 else 1
    return Image(_narrowed(array), grid, channels, str(path), "rgb" if channels > 1 else "vector")


def read_dicom_grid(path: Path, series_uid: str | None = None) -> Grid:
    """The grid of a series, from its headers."""
    with unpacked(path) as root:
        files, frames = _select(path, root, series_uid)
        return arrange(path, frames, files[0].shape).grid


def frame_of_reference(path: Path, series_uid: str | None = None) -> str:
    """UID of the frame in which a series lies; "" for what is no DICOM or does not say."""
    if not is_dicom(path):
        return ""
    with unpacked(path) as root:
        uid = _select(path, root, series_uid)[0][0].frame_uid
    return uid if re.fullmatch(UID, uid) else ""


def source_header(path: Path, series_uid: str | None = None) -> Dataset | None:
    """Modality, patient, position and study of a series; None for what is no DICOM.

    For a new series that is made of it: nothing of it belongs into a message.
    """
    if not is_dicom(path):
        return None
    import pydicom

    with unpacked(path) as root:
        first = _select(path, root, series_uid)[0][0].path
        data = pydicom.dcmread(first, stop_before_pixels=True, force=True)
    chosen = pydicom.Dataset()
    for name in (*IDENTITY, "Modality", "PatientPosition"):
        if name in data:
            setattr(chosen, name, data[name].value)
    return chosen


def _select(path: Path, root: Path, uid: str | None) -> tuple[list[DicomFile], list[Frame]]:
    files = _choose_series(path, _scan(path, root), uid)
    _check_one_shape(path, files)
    return files, [frame for file in files for frame in file.frames]


def _scan(path: Path, root: Path) -> list[DicomFile]:
    names = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    candidates = [p for p in names if _is_candidate(p)]
    parsed = [file for name in candidates if (file := _parse_file(name)) is not None]
    if not parsed:
        raise InputError(f"{path}: no DICOM image found", "give a folder with a DICOM series")
    return parsed


def _is_candidate(path: Path) -> bool:
    """macOS puts a file of its own, `._0.dcm`, beside each file on a disk that is not its own."""
    with path.open("rb") as file:
        if file.read(len(APPLE_DOUBLE)) == APPLE_DOUBLE:
            return False
    return path.suffix.lower() in SUFFIXES or header.starts_like_dicom(path)


def _parse_file(path: Path) -> DicomFile | None:
    """None for DICOM objects without pixels (directories, reports)."""
    elements = header.read_elements(path)
    rows, columns = (header.short(elements, tag, 0) for tag in (header.ROWS, header.COLUMNS))
    if not rows or not columns:
        return None
    try:
        count = _frame_count(elements)
        _check_claim(path, elements, rows * columns * count)  # before so many frames are made
        frames = _frames(path, elements, count)
    except ValueError:
        raise InputError(f"{path}: a damaged DICOM header", "get the file again") from None
    modality = header.text(elements, header.MODALITY)
    series, frame_uid = (
        header.text(elements, t) for t in (header.SERIES, header.FRAME_OF_REFERENCE)
    )
    return DicomFile(path, series, frame_uid, modality, (len(frames), rows, columns), frames)


def _frame_count(elements: Dataset) -> int:
    count = int((header.numbers(elements, header.FRAMES) or (1,))[0])
    if count < 1:
        raise ValueError("no frames")
    return count


def _frames(path: Path, elements: Dataset, count: int) -> tuple[Frame, ...]:
    groups = header.items(elements, header.FRAME_GROUPS)
    shared = header.nested(elements, header.SHARED_GROUPS)
    at_last = [elements] if count == 1 or not groups else []
    return tuple(_frame(path, k, [*groups[k : k + 1], shared], at_last) for k in range(count))


def _frame(path: Path, number: int, groups: list[Dataset], at_last: list[Dataset]) -> Frame:
    """Geometry of a frame: its own functional group, else the shared one, else the file's."""

    def look(tag: int, group: int, size: int = 1) -> tuple[float, ...]:
        for place in (*(header.nested(held, group) for held in groups), *at_last):
            if value := header.numbers(place, tag):
                if len(value) != size:
                    raise ValueError(f"{len(value)} numbers in element {tag:08x}")
                return value
        return ()

    def first(tag: int, group: int, default: float) -> float:
        return (look(tag, group) or (default,))[0]

    position = look(header.POSITION, header.PLANE_POSITION, 3)
    distance = look(header.SLICE_SPACING, header.PIXEL_MEASURES)
    return Frame(
        path,
        number,
        np.array(position) if position else None,
        look(header.ORIENTATION, header.PLANE_ORIENTATION, 6),
        look(header.PIXEL_SPACING, header.PIXEL_MEASURES, 2),
        abs((distance or look(header.SLICE_THICKNESS, header.PIXEL_MEASURES) or (1.0,))[0]) or 1.0,
        (
            first(header.SLOPE, header.VALUE_TRANSFORMATION, 1.0),
            first(header.INTERCEPT, header.VALUE_TRANSFORMATION, 0.0),
        ),
    )


def _check_claim(path: Path, elements: Dataset, pixels: int) -> None:
    if header.short(elements, header.SIGNED, 0) > 1:
        raise InputError(f"{path}: a damaged DICOM header", "get the file again")
    samples = header.short(elements, header.SAMPLES, 1)
    claimed = pixels * samples * header.short(elements, header.BITS, 16) // 8
    growth = 1 if header.syntax_of(elements) in RAW_SYNTAXES else GZIP_LIMIT
    size = path.stat().st_size
    if claimed > size * growth:
        raise InputError(
            f"{path}: the header claims {claimed} bytes of pixels, the file has {size}",
            "the file is truncated or its header damaged; get it again",
        )


def _choose_series(path: Path, files: list[DicomFile], uid: str | None) -> list[DicomFile]:
    series: dict[str, list[DicomFile]] = {}
    for file in files:
        series.setdefault(file.series, []).append(file)
    if uid is None and len(series) == 1:
        return files
    if uid in series:
        return series[uid]
    listing = ", ".join(_describe(name, members) for name, members in sorted(series.items()))
    wrong = f"no series {uid}" if uid is not None else f"{len(series)} series, one was expected"
    raise InputError(f"{path}: {wrong}; here are {listing}", "choose one with --series-uid")


def _describe(uid: str, files: list[DicomFile]) -> str:
    """A series for a message: only what can't hold a patient's name."""
    shown = uid if re.fullmatch(UID, uid) else "(no valid UID)"
    modality = files[0].modality if re.fullmatch(r"[A-Z]{2}", files[0].modality) else "?"
    slices = sum(len(file.frames) for file in files)
    return f"{shown} ({modality}, {slices} slices)"


def _check_one_shape(path: Path, files: list[DicomFile]) -> None:
    shapes = sorted({file.shape for file in files})
    if len(shapes) > 1 or (len(files) > 1 and shapes[0][0] > 1):
        raise InputError(
            f"{path}: slices of different sizes (frames, rows, columns) {shapes}",
            "keep one acquisition in the folder",
        )
    orientations = np.array([f.orientation for file in files for f in file.frames if f.orientation])
    if len(orientations) and np.ptp(orientations, axis=0).max() > SAME_ORIENTATION:
        raise InputError(
            f"{path}: slices of different orientations in one series",
            "keep one acquisition in the folder",
        )


def _read_pixels(path: Path, files: list[DicomFile], frames: list[Frame]) -> NDArray[np.generic]:
    """(frames, rows, columns[, samples]) rescaled values in the files' order."""
    reader = _reader([str(file.path) for file in files])
    if len({frame.rescale for frame in frames}) > 1:
        reader.SetOutputPixelType(sitk.sitkFloat32)  # the first slice's type would cut the others
    image = execute(reader, path)
    count, components = len(frames), image.GetNumberOfComponentsPerPixel()
    shape = (count, *files[0].shape[1:]) + ((components,) if components > 1 else ())
    array: NDArray[np.generic] = sitk.GetArrayFromImage(image).reshape(shape)
    return array


def _reader(names: list[str]) -> sitk.ImageReaderBase:
    reader: sitk.ImageReaderBase
    if len(names) == 1:  # a series reader would take one frame only
        reader = sitk.ImageFileReader()
        reader.SetFileName(names[0])
    else:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
    reader.SetImageIO("GDCMImageIO")
    return reader


def _narrowed(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """int32, which GDCM chooses for the range of 16 bits + intercept, as int16 where it fits."""
    limits = np.iinfo(np.int16)
    if array.dtype != np.int32 or array.min() < limits.min or array.max() > limits.max:
        return array
    return array.astype(np.int16)

"""The few DICOM elements that place pixels in space, read by pydicom.

SimpleITK shows no nested elements, so frames of a multi-frame file could not be checked or
sorted. Values are taken as bytes and only those asked for are decoded: names and free text of a
header stay in the file. What pydicom passes over in silence (an element longer than the file, an
unknown type) is refused here, as GDCM would be led astray by it.
"""

from __future__ import annotations

import struct
import zlib
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from carl_cli.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITY = 0x00080060
SLICE_THICKNESS = 0x00180050
SLICE_SPACING = 0x00180088
SERIES = 0x0020000E
POSITION = 0x00200032
ORIENTATION = 0x00200037
FRAME_OF_REFERENCE = 0x00200052
SAMPLES = 0x00280002
FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
PIXEL_SPACING = 0x00280030
BITS = 0x00280100
SIGNED = 0x00280103
INTERCEPT = 0x00281052
SLOPE = 0x00281053
PIXELS = 0x7FE00010
SHARED_GROUPS = 0x52009229
FRAME_GROUPS = 0x52009230
PLANE_POSITION = 0x00209113
PLANE_ORIENTATION = 0x00209116
PIXEL_MEASURES = 0x00289110
VALUE_TRANSFORMATION = 0x00289145
IMPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF
LEAST_INFLATED, MOST_INFLATED = 2**26, 100
"""Bytes, and times the file: what deflated elements may unpack to."""
KEPT_BYTES = 2**20
"""Longer elements, pixels above all, stay in the file until they are asked for."""


def starts_like_dicom(path: Path) -> bool:
    """True when the file has the DICM mark after its preamble."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_elements(path: Path) -> Dataset:
    """The elements of a file, not yet decoded; InputError if the file is damaged."""
    import pydicom  # late: 0.2 s

    with open(path, "rb") as file:
        start = file.read(132)
    try:
        if start[128:] != b"DICM" and start[:1] not in (b"\x02", b"\x08"):
            raise ValueError("it begins with no DICOM element")
        if start[128:] == b"DICM":
            check_inflation(path)
        data = pydicom.dcmread(path, defer_size=KEPT_BYTES, force=True)
        _check_elements(data, path.stat().st_size)
    except OSError:
        raise
    except Exception as error:  # pydicom raises many kinds; their words may hold the file's text
        why = str(error) if type(error) is ValueError else type(error).__name__
        raise InputError(f"{path}: a damaged DICOM file ({why})", "get the file again") from None
    return data


def check_inflation(path: Path) -> None:
    """ValueError for deflated elements that unpack to far more than an image holds: pydicom would
    unpack them all before anything in them can be looked at."""
    from pydicom.filereader import read_file_meta_info

    meta = read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
        return
    packed = path.read_bytes()[132 + 12 + int(meta.FileMetaInformationGroupLength) :]
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacker.decompress(packed, max(LEAST_INFLATED, MOST_INFLATED * len(packed)))
    if unpacker.unconsumed_tail:
        raise ValueError("it unpacks to far more than an image holds")


def _check_elements(data: Dataset, size: int) -> None:
    """Whole elements of known types, and after the pixels nothing but zeros besides."""
    from pydicom.dataelem import RawDataElement
    from pydicom.valuerep import VR

    known = {representation.value for representation in VR}
    if syntax_of(data) == DEFLATED:
        size = 2**63
    end = 0
    for element in (*data.file_meta.values(), *data.values()):
        if not isinstance(element, RawDataElement) or element.length == UNDEFINED:
            end = size  # where it ends is for pydicom to find
            continue
        end = max(end, element.value_tell + element.length)
        if end > size:
            raise ValueError("an element reaches beyond the end")
        padding = element.tag == 0 and element.length == 0
        if not (element.is_implicit_VR or padding or element.VR in known):
            raise ValueError("no element where one was expected")
    if not len(data) or (end < size < end + 8 and PIXELS not in data):
        raise ValueError("it ends within an element")


def syntax_of(data: Dataset) -> str:
    """Transfer syntax UID; implicit little endian where a file does not say."""
    meta = getattr(data, "file_meta", None) or {}
    return str(meta.get("TransferSyntaxUID") or IMPLICIT)


def text(data: Dataset, tag: int) -> str:
    """A string element without its padding; "" when absent."""
    return _bytes(data, tag).decode("ascii", "replace").strip(" \0")


def numbers(data: Dataset, tag: int) -> tuple[float, ...]:
    """A decimal or integer string element; () when absent or empty. ValueError for others."""
    values = tuple(float(part) for part in text(data, tag).split("\\") if part.strip())
    if not all(map(isfinite, values)):
        raise ValueError(f"{values} in element {tag:08x}")
    return values


def short(data: Dataset, tag: int, default: int) -> int:
    """An unsigned 16-bit element."""
    value = _bytes(data, tag)
    if len(value) < 2:
        return default
    order = "<" if getattr(data.get_item(tag), "is_little_endian", True) else ">"
    return int(struct.unpack_from(order + "H", value)[0])


def _bytes(data: Dataset, tag: int) -> bytes:
    value = data.get_item(tag).value if tag in data else b""
    return value if isinstance(value, bytes) else b""


def items(data: Dataset, tag: int) -> list[Dataset]:
    """The items of a sequence; [] when absent. ValueError if it is no sequence."""
    if tag not in data:
        return []
    found = data[tag]
    if found.VR != "SQ":
        raise ValueError(f"element {tag:08x} is no sequence")
    return list(found.value)


def nested(data: Dataset, tag: int) -> Dataset:
    """First item of a sequence; empty when absent."""
    from pydicom import Dataset

    return next(iter(items(data, tag)), Dataset())

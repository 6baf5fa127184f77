"""The few DICOM elements that place pixels in space, read without touching any other.

SimpleITK shows no nested elements, so frames of a multi-frame file could not be checked or
sorted. Only the tags in WANTED are ever decoded: names and free text stay in the file.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from carl_cli.errors import InputError

Elements = dict[int, "bytes | list[Elements]"]

SYNTAX = 0x00020010
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
WANTED_SEQUENCES = {
    SHARED_GROUPS, FRAME_GROUPS, PLANE_POSITION, PLANE_ORIENTATION, PIXEL_MEASURES,
    VALUE_TRANSFORMATION,
}  # fmt: skip
WANTED = WANTED_SEQUENCES | {
    SYNTAX, MODALITY, SLICE_THICKNESS, SLICE_SPACING, SERIES, POSITION, ORIENTATION, SAMPLES,
    FRAMES, FRAME_OF_REFERENCE, ROWS, COLUMNS, PIXEL_SPACING, BITS, SIGNED, INTERCEPT, SLOPE,
}  # fmt: skip
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
UNDEFINED = 0xFFFFFFFF
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
DEEPEST = 16
LEAST_INFLATED, MOST_INFLATED = 2**26, 100
"""Bytes, and times the file: what deflated elements may unpack to. Zeros may pack a thousandfold,
and 4 MB would take 4 GB before anything in them can be looked at."""


class _Encoding(NamedTuple):
    endian: str
    explicit: bool


class _Element(NamedTuple):
    tag: int
    representation: bytes
    start: int
    length: int


Buffer = bytes | mmap.mmap


def starts_like_dicom(path: Path) -> bool:
    """True when the file has the DICM mark after its preamble."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_elements(path: Path) -> Elements:
    """WANTED elements of a file, values as bytes, sequences as lists; InputError if damaged."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse_file(data)
    except (struct.error, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"{path}: a damaged DICOM file ({error})", "get the file again") from None


def syntax_of(elements: Elements) -> str:
    """Transfer syntax UID; implicit little endian where a file does not say."""
    return text(elements, SYNTAX) or IMPLICIT


def text(elements: Elements, tag: int) -> str:
    """A string element without its padding; "" when absent."""
    value = elements.get(tag, b"")
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


def numbers(elements: Elements, tag: int) -> tuple[float, ...]:
    """A decimal or integer string element; () when absent or empty. ValueError for others."""
    values = tuple(float(part) for part in text(elements, tag).split("\\") if part.strip())
    if not all(map(isfinite, values)):
        raise ValueError(f"{values} in element {tag:08x}")
    return values


def short(elements: Elements, tag: int, default: int) -> int:
    """An unsigned 16-bit element."""
    value = elements.get(tag)
    if not isinstance(value, bytes) or len(value) < 2:
        return default
    endian = ">" if syntax_of(elements) == BIG_ENDIAN else "<"
    return int(struct.unpack_from(endian + "H", value)[0])


def nested(elements: Elements, *tags: int) -> Elements:
    """First item of a sequence in a sequence …; {} when absent."""
    for tag in tags:
        items = elements.get(tag)
        elements = items[0] if isinstance(items, list) and items else {}
    return elements


def _parse_file(data: mmap.mmap) -> Elements:
    marked = data[128:132] == b"DICM"
    if not marked and data[:1] not in (b"\x02", b"\x08"):
        raise ValueError("it begins with no DICOM element")
    start = 132 if marked else 0
    found: Elements = {}
    if marked:
        start = _parse(data, start, len(data), _Encoding("<", True), found, group=0x0002)
    syntax = syntax_of(found)
    encoding = _Encoding(">" if syntax == BIG_ENDIAN else "<", syntax != IMPLICIT)
    buffer: Buffer = data
    if syntax == DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        buffer = unpacker.decompress(data[start:], max(LEAST_INFLATED, MOST_INFLATED * len(data)))
        start = 0
        if unpacker.unconsumed_tail:
            raise ValueError("it unpacks to far more than an image holds")
    _parse(buffer, start, len(buffer), encoding, found)
    return found


def _parse(
    data: Buffer,
    at: int,
    end: int,
    encoding: _Encoding,
    found: Elements,
    group: int | None = None,
    depth: int = 0,
) -> int:
    """Collect WANTED elements in data[at:end] into `found`; where parsing stopped."""
    if depth > DEEPEST:
        raise ValueError("sequences nested too deep")
    while at + 8 <= end:
        if group not in (None, struct.unpack_from(encoding.endian + "H", data, at)[0]):
            return at
        element = _element(data, at, encoding)
        if element.tag >= PIXELS and depth == 0:
            _check_rest(data, element, end, encoding)
            return at
        if element.tag == ITEM_END:
            return element.start
        at = _take(data, element, end, encoding, found, depth)
    if depth == 0 and at != end:
        raise ValueError("it ends within an element")
    return at


def _check_rest(data: Buffer, pixels: _Element, end: int, encoding: _Encoding) -> None:
    """Whole elements and zeros may follow the pixels: what is longer than the file, or none at
    all, would be given the memory that it asks for. Fragments are left to GDCM."""
    if pixels.length == UNDEFINED:
        return
    at = _take(data, pixels, end, encoding, {}, 0)
    while at + 8 <= end and any(data[at:end]):
        element = _element(data, at, encoding)
        if encoding.explicit and not element.representation.isupper():
            raise ValueError("no element where one was expected")
        at = _take(data, element, end, encoding, {}, 0)


def _take(
    data: Buffer, element: _Element, end: int, encoding: _Encoding, found: Elements, depth: int
) -> int:
    """Store or skip one element; position after it."""
    wanted = element.tag in WANTED
    if element.length == UNDEFINED or element.tag in WANTED_SEQUENCES:
        if element.representation == b"UN":
            encoding = _Encoding("<", False)
        items, after = _items(data, element, end, encoding, depth + 1)
        if wanted:
            found[element.tag] = items
        return after
    after = element.start + element.length
    if after > end:
        raise ValueError("an element reaches beyond the end")
    if wanted:
        found[element.tag] = data[element.start : after]
    return after


def _items(
    data: Buffer, sequence: _Element, end: int, encoding: _Encoding, depth: int
) -> tuple[list[Elements], int]:
    items: list[Elements] = []
    at = sequence.start
    stop = end if sequence.length == UNDEFINED else min(end, at + sequence.length)
    while at + 8 <= stop:
        item = _element(data, at, encoding)
        if item.tag == SEQUENCE_END:
            return items, item.start
        if item.tag != ITEM:
            raise ValueError("a sequence without items")
        found: Elements = {}
        item_end = stop if item.length == UNDEFINED else min(stop, item.start + item.length)
        after = _parse(data, item.start, item_end, encoding, found, depth=depth)
        at = after if item.length == UNDEFINED else item_end
        items.append(found)
    return items, stop


def _element(data: Buffer, at: int, encoding: _Encoding) -> _Element:
    endian, explicit = encoding
    group, number = struct.unpack_from(endian + "HH", data, at)
    tag = group << 16 | number
    if not explicit or group == 0xFFFE:
        return _Element(tag, b"", at + 8, struct.unpack_from(endian + "I", data, at + 4)[0])
    representation = bytes(data[at + 4 : at + 6])
    if representation in LONG_VRS:
        length = struct.unpack_from(endian + "I", data, at + 8)[0]
        return _Element(tag, representation, at + 12, length)
    if representation.isupper() and representation not in SHORT_VRS:
        raise ValueError("no element where one was expected")  # GDCM would guess its length
    return _Element(tag, representation, at + 8, struct.unpack_from(endian + "H", data, at + 6)[0])

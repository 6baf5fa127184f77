"""VTK geometry: legacy `.vtk` (ASCII and binary) and XML `.vtp`. Only the points change."""

from __future__ import annotations

import base64
import logging
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from itertools import islice

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.points.document import Document, Frame, number

log = logging.getLogger(__name__)

POINTS = re.compile(rb"^POINTS\s+(\d+)\s+(\w+)[^\S\n]*\r?\n", re.MULTILINE)
POINTS_FOLLOW = re.compile(rb"\s*(?:[A-Za-z#]|$)")
LEGACY_TYPES = {"float": ">f4", "double": ">f8"}
XML_TYPES = {"Float32": "f4", "Float64": "f8"}


def read_legacy(content: bytes, name: str) -> Document:
    """The second line may say SPACE=LPS or SPACE=RAS (Slicer writes it)."""
    head = content[:1024].split(b"\n")
    match = POINTS.search(content)
    if not content.startswith(b"# vtk DataFile") or match is None or len(head) < 3:
        raise InputError(f"{name}: not a legacy VTK file with points")
    count, kind = int(match[1]), match[2].decode().lower()
    if kind not in LEGACY_TYPES:
        raise InputError(f"{name}: points of type {kind}", "save them as float or double")
    _warn_of_normals(content, name)
    frame = _space(head[1].decode("latin-1"))
    start = match.end()
    if head[2].strip().upper() == b"BINARY":
        return _binary(content, start, count, np.dtype(LEGACY_TYPES[kind]), frame, name)
    return _ascii(content, start, count, frame, name)


def _binary(
    content: bytes,
    start: int,
    count: int,
    dtype: np.dtype[np.floating],
    frame: Frame | None,
    name: str,
) -> Document:
    end = start + 3 * count * dtype.itemsize
    if end > len(content):
        raise InputError(f"{name}: {count} points were announced, the file ends before them")
    numbers = np.frombuffer(content[start:end], dtype).reshape(count, 3).astype(float)

    def rewrite(values: Array) -> bytes:
        return content[:start] + values.astype(dtype).tobytes() + content[end:]

    return Document(numbers, frame, rewrite)


def _ascii(content: bytes, start: int, count: int, frame: Frame | None, name: str) -> Document:
    if count > len(content):
        raise InputError(f"{name}: {count} points were announced, the file ends before them")
    words = list(islice(re.compile(rb"\S+").finditer(content, start), 3 * count))
    end = words[-1].end() if words else start
    try:
        numbers = np.array([word[0] for word in words], float).reshape(count, 3)
    except ValueError as error:
        raise InputError(f"{name}: {count} points were announced: {error}") from error
    if POINTS_FOLLOW.match(content, end) is None:
        raise InputError(f"{name}: more numbers than the {count} points that were announced")

    def rewrite(values: Array) -> bytes:
        return content[:start] + _lines(values).rstrip() + content[end:]

    return Document(numbers, frame, rewrite)


def _lines(values: Array) -> bytes:
    return "".join(" ".join(map(number, point)) + "\n" for point in values).encode()


def _space(title: str) -> Frame | None:
    match = re.search(r"SPACE=(LPS|RAS)", title)
    return None if match is None else "LPS" if match[1] == "LPS" else "RAS"


def _warn_of_normals(content: bytes, name: str) -> None:
    if re.search(rb"^NORMALS|Name=\"Normals\"", content, re.MULTILINE):
        log.warning("%s: normals are copied as they are; compute them again", name)


def new_legacy(values: Array) -> bytes:
    count = len(values)
    vertices = "".join(f"1 {k}\n" for k in range(count)).encode()
    head = "# vtk DataFile Version 3.0\ncarl points SPACE=LPS\nASCII\nDATASET POLYDATA\n"
    points = f"POINTS {count} double\n".encode() + _lines(values)
    return head.encode() + points + f"VERTICES {count} {2 * count}\n".encode() + vertices


def read_xml(content: bytes, name: str) -> Document:
    """Points in ASCII or base64, inline or appended, plain or zlib; rewritten as ASCII."""
    try:
        root = ElementTree.fromstring(content)
        array = _point_array(root)
        numbers = _decode(root, array).reshape(-1, 3)
        _check_count(root, len(numbers))
    except (ElementTree.ParseError, ValueError, KeyError, struct.error, zlib.error) as error:
        raise InputError(f"{name}: its points can't be read: {error}", "save it as ASCII") from None
    _warn_of_normals(content, name)

    def rewrite(values: Array) -> bytes:
        copy = ElementTree.fromstring(content)
        target = _point_array(copy)
        for key in ("offset", "RangeMin", "RangeMax"):
            target.attrib.pop(key, None)
        target.set("format", "ascii")
        target.text = "\n" + _lines(values).decode()
        return ElementTree.tostring(copy, xml_declaration=True)

    return Document(numbers, None, rewrite)


def _point_array(root: ElementTree.Element) -> ElementTree.Element:
    arrays = root.findall(".//Points/DataArray")
    if len(arrays) != 1:
        raise ValueError(f"{len(arrays)} arrays of points, one was expected")
    return arrays[0]


def _check_count(root: ElementTree.Element, found: int) -> None:
    piece = root.find(".//Piece")
    announced = None if piece is None else piece.get("NumberOfPoints")
    if announced is not None and int(announced) != found:
        raise ValueError(f"{announced} points were announced, {found} are there")


def _decode(root: ElementTree.Element, array: ElementTree.Element) -> Array:
    kind = array.get("format", "ascii")
    if kind == "ascii":
        return np.array((array.text or "").split(), float)
    text = (array.text or "").strip()
    if kind == "appended":
        appended = root.find("AppendedData")
        if appended is None or appended.get("encoding") != "base64":
            raise ValueError("raw appended data")
        text = (appended.text or "").strip()[1 + int(array.get("offset", "0")) :]
    order = ">" if root.get("byte_order") == "BigEndian" else "<"
    header = order + ("Q" if root.get("header_type") == "UInt64" else "I")
    decode = _inflate if root.get("compressor") else _plain
    dtype = np.dtype(order + XML_TYPES[array.get("type", "")])
    return np.frombuffer(decode(text, header), dtype).astype(float)


def _plain(text: str, header: str) -> bytes:
    """base64 of (size, data)."""
    width = struct.calcsize(header)
    (size,) = struct.unpack(header, base64.b64decode(text[: _encoded(width) + 4])[:width])
    return base64.b64decode(text[: _encoded(width + size)])[width : width + size]


def _inflate(text: str, header: str) -> bytes:
    """base64 of (blocks, block size, last size, compressed sizes), then base64 of the blocks."""
    width = struct.calcsize(header)
    (blocks,) = struct.unpack(header, base64.b64decode(text[: _encoded(width) + 4])[:width])
    head = _encoded(width * (3 + blocks))
    layout = f"{header[0]}{3 + blocks}{header[1]}"
    sizes = struct.unpack_from(layout, base64.b64decode(text[:head]))[3:]
    data = base64.b64decode(text[head : head + _encoded(sum(sizes))])
    ends = np.cumsum(sizes)
    return b"".join(zlib.decompress(data[e - s : e]) for e, s in zip(ends, sizes, strict=True))


def _encoded(size: int) -> int:
    """Characters of base64 for this many bytes."""
    return 4 * ((size + 2) // 3)

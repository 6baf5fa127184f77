"""Facts of a NIfTI header that decide what a vector image means."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from carl_cli.errors import InputError

INTENT_DISPLACEMENT = 1006
INTENT_VECTOR = 1007
INTENT_OFFSET = {348: 68, 540: 504}
NAME_OFFSET = {348: 328, 540: 508}


@dataclass(frozen=True)
class Header:
    """dim: the eight numbers of the header; intent: its code; intent_name: text."""

    dim: tuple[int, ...]
    intent: int
    intent_name: str


def read_header(path: Path) -> Header:
    """NIfTI-1 or 2, either byte order, compressed or not. Raises InputError."""
    with _open(path, "rb") as stream:
        raw = stream.read(540)
    order, size = _layout(raw, path)
    dim_format, dim_offset = ("8h", 40) if size == 348 else ("8q", 16)
    intent_format = "h" if size == 348 else "i"
    dim = struct.unpack_from(order + dim_format, raw, dim_offset)
    (intent,) = struct.unpack_from(order + intent_format, raw, INTENT_OFFSET[size])
    name = raw[NAME_OFFSET[size] : NAME_OFFSET[size] + 16].split(b"\0")[0].decode("latin-1")
    return Header(tuple(dim), intent, name)


def set_intent(source: Path, target: Path, intent: int) -> None:
    """Copy an uncompressed NIfTI-1 file, changing its intent code; `.gz` target compresses."""
    with source.open("rb") as reader, _open(target, "wb") as writer:
        header = bytearray(reader.read(348))
        order, size = _layout(bytes(header), source)
        struct.pack_into(order + "h", header, INTENT_OFFSET[size], intent)
        writer.write(header)
        while block := reader.read(1 << 24):
            writer.write(block)


def _open(path: Path, mode: str) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, mode, compresslevel=6)  # type: ignore[return-value]
    return path.open(mode)


def _layout(raw: bytes, path: Path) -> tuple[str, int]:
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", raw.ljust(4, b"\0"))
        if size in INTENT_OFFSET and len(raw) >= size:
            return order, size
    raise InputError(f"{path}: not a NIfTI file")

"""What a NIfTI header says about vectors, and how to say it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

from carl_cli.io.nifti_header import NIFTI1_HEADER, Header, parse_header, start_of

INTENT_DISPLACEMENT = 1006
INTENT_VECTOR = 1007
INTENT_OFFSET = 68
NAME_OFFSET = {1: 328, 2: 508}
BLOCK = 1 << 24


def read_header(path: Path) -> Header:
    """Of a NIfTI file, compressed or not. Raises InputError."""
    return parse_header(start_of(path), path)


def intent_name(header: Header) -> str:
    start = NAME_OFFSET.get(header.version, 0)
    return header.raw[start : start + 16].split(b"\0")[0].decode("latin-1")


def set_intent(source: Path, target: Path, intent: int) -> None:
    """Copy an uncompressed NIfTI-1 file, changing its intent code; a `.gz` target compresses."""
    packed = target.name.lower().endswith(".gz")
    with (
        source.open("rb") as reader,
        gzip.open(target, "wb", 6) if packed else target.open("wb") as writer,
    ):
        header = bytearray(reader.read(NIFTI1_HEADER))
        struct.pack_into("<h", header, INTENT_OFFSET, intent)
        writer.write(header)
        while block := reader.read(BLOCK):
            writer.write(block)

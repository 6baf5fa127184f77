"""HDF5 files without the time of their writing: the same transform, the same bytes.

ITK lets HDF5 note four times in the header of every object, and offers no way not to. They
are set to zero here, and each header's checksum is made right again.

Source: HDF5 File Format Specification, version 3.0, IV.A.1.b (version 2 object headers).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_SIGNATURE = b"OHDR\x02"
_HAS_TIMES, _HAS_LIMITS = 0x20, 0x10
_TIMES = slice(6, 22)
_MASK = 0xFFFFFFFF


def forget_times(path: Path) -> None:
    """Rewrite the headers in place. What only looks like a header fails its checksum and stays."""
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as content:
        for start in _headers(content):
            end = _end(content, start)
            if end is None or checksum(content[start:end]) != _stored(content, end):
                continue
            header = bytearray(content[start:end])
            header[_TIMES] = bytes(16)
            content[start : end + 4] = bytes(header) + struct.pack("<I", checksum(bytes(header)))


def _headers(content: mmap.mmap) -> Iterator[int]:
    start = content.find(_SIGNATURE)
    while start >= 0:
        yield start
        start = content.find(_SIGNATURE, start + 1)


def _end(content: mmap.mmap, start: int) -> int | None:
    """Where the checksum of the header lies; None without times or beyond the file."""
    flags = content[start + 5] if start + 5 < len(content) else 0
    if not flags & _HAS_TIMES:
        return None
    place = start + 22 + (4 if flags & _HAS_LIMITS else 0)
    width = 1 << (flags & 3)
    end = place + width + int.from_bytes(content[place : place + width], "little")
    return end if end + 4 <= len(content) else None


def _stored(content: mmap.mmap, place: int) -> int:
    return int.from_bytes(content[place : place + 4], "little")


def checksum(data: bytes) -> int:
    """Bob Jenkins's lookup3 ("hashlittle", 2006) from 0, the checksum of HDF5's metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    blocks = -(-len(data) // 12)
    words = struct.unpack(f"<{3 * blocks}I", data.ljust(12 * blocks, b"\0"))
    for k in range(0, len(words) - 3, 3):
        a, b, c = _mix(a + words[k], b + words[k + 1], c + words[k + 2])
    if not words:
        return c
    return _final(a + words[-3], b + words[-2], c + words[-1])


def _rotated(x: int, k: int) -> int:
    x &= _MASK
    return (x << k | x >> (32 - k)) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a, b, c = a & _MASK, b & _MASK, c & _MASK
    for k in (4, 6, 8, 16, 19, 4):
        a, b, c = b, (c + b) & _MASK, ((a - c) & _MASK) ^ _rotated(c, k)
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    a, b, c = a & _MASK, b & _MASK, c & _MASK
    for k in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, ((c ^ b) - _rotated(b, k)) & _MASK, a
    return b

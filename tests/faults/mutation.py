"""Sound bytes → damaged bytes, the same ones for the same seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
STRANGE_NUMBERS = (
    b"0", b"-1", b"1", b"2", b"3", b"255", b"65536", b"2147483647", b"2147483648", b"4294967295",
    b"9223372036854775807", b"99999999999999999999", b"1e308", b"-1e308", b"1e-320", b"nan",
    b"inf", b"-inf", b"1e999", b"", b"x", b"1 2", b"0x10", b"1_000", b"\xef\xbc\x91", b"-5",
    b"99", b"1e300", b"\xc2\xb2", b"9" * 400, b"9" * 5000,
)  # fmt: skip
REFERENCE = re.compile(rb"(?:data ?file:|ElementDataFile *=) *([^\r\n]*)", re.IGNORECASE)
STRANGE_REFERENCES = (
    b"%s%s%s 1 4 1", b"%n 1 1 1", b"%99999d 1 4 1", b"%d", b"LIST", b"LIST 3", b"/dev/zero",
    b"/dev/stdin", b"/", b"..", b"absent.raw", b"a" * 5000, b"\xff\xfe",
)  # fmt: skip
STRANGE_BYTES = (
    b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01\x00\x00\x00",
    b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff" * 8, b"\x00" * 8,
    b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\n", b"\r\n",
    b'"', b"\\", b"\x00", b"\xc3\x28",
)  # fmt: skip
HEAD = 512

Change = Callable[[bytes, Random], bytes]


def somewhere(length: int, random: Random) -> int:
    """Half of the places lie at the start, where headers are."""
    near = min(length, HEAD) if random.random() < 0.5 else length
    return random.randrange(max(1, near))


def truncated(content: bytes, random: Random) -> bytes:
    return content[: somewhere(len(content), random)]


def flipped(content: bytes, random: Random) -> bytes:
    """One to eight bits."""
    result = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        if result:
            result[somewhere(len(result), random)] ^= 1 << random.randrange(8)
    return bytes(result)


def overwritten(content: bytes, random: Random) -> bytes:
    at, value = somewhere(len(content), random), random.choice(STRANGE_BYTES)
    return content[:at] + value + content[at + len(value) :]


def inserted(content: bytes, random: Random) -> bytes:
    at = somewhere(len(content), random)
    return content[:at] + random.choice((random.randbytes(3), *STRANGE_BYTES)) + content[at:]


def removed(content: bytes, random: Random) -> bytes:
    at = somewhere(len(content), random)
    return content[:at] + content[at + random.choice((1, 2, 4, 16, 200)) :]


def repeated(content: bytes, random: Random) -> bytes:
    at = somewhere(len(content), random)
    end = at + random.choice((4, 16, 100, 1000))
    return content[:end] + content[at:]


def blanked(content: bytes, random: Random) -> bytes:
    """A block of zeros, as a disk with a lost sector gives it."""
    at = somewhere(len(content), random)
    size = min(random.choice((64, 512, 4096)), len(content) - at)
    return content[:at] + bytes(size) + content[at + size :]


def renumbered(content: bytes, random: Random) -> bytes:
    """A number in text, of those within the first kilobytes, becomes another."""
    found = list(NUMBER.finditer(content[:4096]))
    if not found:
        return overwritten(content, random)
    match = random.choice(found)
    return content[: match.start()] + random.choice(STRANGE_NUMBERS) + content[match.end() :]


def redirected(content: bytes, random: Random) -> bytes:
    """The name of the file that holds a header's voxels becomes another."""
    match = REFERENCE.search(content[:4096])
    if match is None:
        return renumbered(content, random)
    return content[: match.start(1)] + random.choice(STRANGE_REFERENCES) + content[match.end(1) :]


BINARY: tuple[Change, ...] = (
    truncated, truncated, flipped, flipped, flipped, overwritten, inserted, removed, repeated,
    blanked,
)  # fmt: skip
TEXT: tuple[Change, ...] = (*BINARY, renumbered, renumbered, renumbered, redirected)


def damaged(content: bytes, seed: int | str, text: bool = False) -> tuple[bytes, str]:
    """(other bytes than `content`, name of the change)."""
    random = Random(f"carl {seed}")
    while True:
        change = random.choice(TEXT if text else BINARY)
        result = change(content, random)
        if result != content:
            return result, change.__name__

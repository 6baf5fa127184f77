"""NRRD and MetaImage looked at more strictly than their libraries do.

MetaIO takes numbers that are cut short or missing, and neither library tells of packed voxels
whose checksum is wrong: both would hand on voxels that are not those of the file.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import IO

from carl_cli.errors import InputError
from carl_cli.io.numbers import is_number

META_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
TEXT_HEADERS = (*NRRD_SUFFIXES, *META_SUFFIXES)
LONGEST_HEADER = 2**20
BLOCK = 2**20
DATA_FILE = re.compile(
    rb"^(?:data ?file:|ElementDataFile *=)[ \t]*([^\r\n]*)\r?\n", re.MULTILINE | re.IGNORECASE
)
END_OF_NRRD = re.compile(rb"\r?\n\r?\n")
ONE, ONE_PER_AXIS, MATRIX = 0, 1, 2
MOST_AXES = 10  # of MetaIO's arrays
NUMBERED = re.compile(r"[^%]*%0?[0-9]?d[^%]*( +[0-9]{1,6}){2,3}")
"""MetaIO hands this name, with first and last number, to C's printf."""
WHOLE = {"NDims", "ElementNumberOfChannels", "CompressedDataSize", "HeaderSize", "DimSize"}
META_NUMBERS = {
    "NDims": ONE, "ElementNumberOfChannels": ONE, "CompressedDataSize": ONE, "HeaderSize": ONE,
    "DimSize": ONE_PER_AXIS, "ElementSpacing": ONE_PER_AXIS, "ElementSize": ONE_PER_AXIS,
    "Offset": ONE_PER_AXIS, "Position": ONE_PER_AXIS, "Origin": ONE_PER_AXIS,
    "CenterOfRotation": ONE_PER_AXIS, "TransformMatrix": MATRIX, "Rotation": MATRIX,
    "Orientation": MATRIX,
}  # fmt: skip
LINE = re.compile(r"\s*([^=:\s][^=:]*?)\s*[=:](.*)", re.ASCII)
PLAIN = re.compile(r"[0-9eE+\-., ()]*|none|nan|-?inf")
BLANKS = " \t\r\v\f"
NRRD_FINITE = {"dimension", "space dimension", "sizes", "space directions", "space origin"}
NRRD_WHOLE = {"dimension", "space dimension", "sizes"}
NRRD_NUMBERS = NRRD_FINITE | {"spacings", "thicknesses", "axis mins", "axis maxs"}
META_SWITCHES = (
    "BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB",
)  # fmt: skip
SWITCH = re.compile(r"true|false|t|f|1|0", re.IGNORECASE)


@dataclass(frozen=True)
class TextHeader:
    """The header of a file as text; end: where it ends, None where no end was found."""

    path: Path
    text: str
    end: int | None

    @cached_property
    def fields(self) -> dict[str, str]:
        """Key in small letters → value."""
        found = filter(None, map(_field, self.text.splitlines()))
        return {key.lower(): value for key, value in found}

    @property
    def gzipped(self) -> bool:
        return self._starts("encoding", "gz") or self._starts("compresseddata", "t", "1")

    @property
    def packed(self) -> bool:
        return self.gzipped or self._starts("encoding", "bz")

    @property
    def numbers_as_text(self) -> bool:
        as_text = self._starts("encoding", "txt", "text", "ascii", "hex")
        return as_text or self._starts("binarydata", "f", "0")

    def _starts(self, key: str, *words: str) -> bool:
        return self.fields.get(key, "").lower().startswith(words)

    @cached_property
    def data_files(self) -> list[Path]:
        """Existing files that a detached header names; a list or pattern: its whole folder."""
        match = DATA_FILE.search(self.text.encode("latin-1"))
        name = os.fsdecode(match[1].strip()) if match else "LOCAL"
        if name.upper() == "LOCAL":
            return []
        named = self.path.parent / name
        if os.path.isfile(named):  # no error, as a Path has for a name too long
            return [named]
        return [p for p in self.path.parent.iterdir() if p.is_file()]

    @property
    def listed(self) -> list[bytes]:
        """The lines behind the header: names of files, where it says LIST."""
        lines = self.path.read_bytes()[self.end or 0 :][:LONGEST_HEADER].splitlines()
        return [line.strip() for line in lines if line.strip()]

    @cached_property
    def pipes(self) -> list[Path]:
        """What a detached header names and nobody can read to an end. Of a list or a pattern
        anything in its folders counts: which names it stands for is the library's affair."""
        match = DATA_FILE.search(self.text.encode("latin-1"))
        names = [match[1].strip()] if match else []
        if match and (names[0].upper().startswith(b"LIST") or b"%" in names[0]):
            names += self.listed + [os.fsencode(p.name) for p in self.path.parent.iterdir()]
        paths = [self.path.parent / os.fsdecode(name) for name in names if b"\0" not in name]
        return [path for path in paths if len(path.name) < 256 and _is_pipe(path)]


def _is_pipe(path: Path) -> bool:
    return path.exists() and not (path.is_file() or path.is_dir())


def read_text_header(path: Path) -> TextHeader:
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    pattern = END_OF_NRRD if path.suffix.lower() in NRRD_SUFFIXES else DATA_FILE
    match = pattern.search(start)
    text = start[: match.end()] if match else start
    return TextHeader(path, text.decode("latin-1"), match.end() if match else None)


def check_numbers(header: TextHeader) -> None:
    """Raise InputError for a number that is cut short, missing, too many or not finite, and for
    zero bytes, where the libraries end a line."""
    if header.end is not None and "\0" in header.text:
        raise _damaged(header.path, "zero bytes in its header, text was expected")
    if header.pipes:
        raise _damaged(header.path, "its data file is a pipe or a device")
    if header.path.suffix.lower() in META_SUFFIXES:
        _check_meta(header)
    else:
        _check_nrrd(header)


def _check_meta(header: TextHeader) -> None:
    fields: dict[str, str] = {}
    for key, value in _meta_fields(header):
        if key in fields:  # MetaIO takes the first one, others the last
            raise _damaged(header.path, f"it has {key} twice")
        fields[key] = value
    axes = fields.get("NDims", "")
    count = int(axes) if re.fullmatch("[0-9]{1,2}", axes) else 0
    if count > MOST_AXES:
        raise _damaged(header.path, f"NDims = {count}, at most {MOST_AXES} were expected")
    for key, value in fields.items():
        expected = {ONE: 1, ONE_PER_AXIS: count, MATRIX: count**2}.get(META_NUMBERS.get(key, -1))
        if expected is not None and not _are_numbers(value, expected, key in WHOLE):
            raise _damaged(header.path, f"{key} = {_shown(value)}, {expected} numbers expected")
        if key in META_SWITCHES and not SWITCH.fullmatch(value):
            raise _damaged(header.path, f"{key} = {_shown(value)}, True or False expected")
    data_file = fields.get("ElementDataFile", "")
    _check_data_file(header, data_file)
    if data_file.upper().startswith("LIST"):
        _check_list(header, data_file, [int(n) for n in fields.get("DimSize", "").split()])


def _check_data_file(header: TextHeader, value: str) -> None:
    """MetaIO crashes over some names that lead nowhere."""
    named = value.upper() == "LOCAL" or value.upper().startswith("LIST")
    named = named or os.path.isfile(header.path.parent / value)
    if "%" in value:
        named = NUMBERED.fullmatch(value) is not None
    if not named:
        raise _damaged(header.path, "its ElementDataFile is no file beside it")


def _check_list(header: TextHeader, value: str, sizes: list[int]) -> None:
    """Of files that are missing MetaIO hands on whatever the memory held."""
    words = re.fullmatch(r"LIST\s*([0-9]*)D?", value, re.IGNORECASE)
    axes = int(words[1] or 0) if words else 0
    axes = axes if 0 < axes < len(sizes) else len(sizes) - 1  # of each file
    expected, names = prod(sizes[axes:]), header.listed
    files = [n for n in names[:expected] if os.path.isfile(header.path.parent / os.fsdecode(n))]
    if len(files) < expected:
        raise _damaged(header.path, f"{len(files)} of {expected} listed data files are there")


def _check_nrrd(header: TextHeader) -> None:
    """Lists of numbers, and vectors in parentheses; `none` stands for an axis without one."""
    for line in header.text.splitlines():
        key, colon, value = line.partition(":")
        if not colon or key.strip().lower() not in NRRD_NUMBERS:
            continue
        name, words = key.strip().lower(), list(_nrrd_words(value))
        fit = all(is_number(word, name in NRRD_FINITE) for word in words)
        whole = name not in NRRD_WHOLE or all(map(_is_whole, words))
        if not (fit and whole and value.isascii()):
            raise _damaged(header.path, f"{key}: {_shown(value.strip())}, numbers were expected")


def _nrrd_words(value: str) -> Iterator[str]:
    """What has to be a number; a vector's coordinates are parted by commas alone."""
    for vector, word in re.findall(r"\(([^()]*)\)|(\S+)", value):
        if word != "none":
            yield from [word] if word else [part.strip() for part in vector.split(",")]


def _meta_fields(header: TextHeader) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(header.text.splitlines(), 1):
        if field := _field(line):
            yield field
        elif line.strip():
            raise _damaged(header.path, f"line {number} of its header is no field")


def _field(line: str) -> tuple[str, str] | None:
    """Key and value without the spaces of ASCII around them, as MetaIO splits a line: any other
    space is a part of the value."""
    match = LINE.fullmatch(line)
    return (match[1], match[2].strip(BLANKS)) if match else None


def _are_numbers(value: str, count: int, whole: bool) -> bool:
    words = value.split()
    fit = all(_is_whole(word) if whole else is_number(word, True) for word in words)
    return fit and value.isascii() and len(words) == count


def _is_whole(word: str) -> bool:
    """The libraries take what stands before the first other letter."""
    return re.fullmatch(r"[+-]?[0-9]{1,18}", word) is not None


def _shown(value: str) -> str:
    """A value for a message, if it is numbers: words may be a patient's name."""
    return repr(value[:60]) if PLAIN.fullmatch(value) else "words"


def says_spacing(header: TextHeader) -> bool:
    """False for a MetaImage without it."""
    is_meta = header.path.suffix.lower() in META_SUFFIXES
    return not is_meta or bool(header.fields.keys() & {"elementspacing", "elementsize"})


def check_packed_voxels(header: TextHeader, claimed: int) -> None:
    """Unpack a gzip or zlib stream once, keeping nothing, and compare lengths and checksum.

    Raises InputError. Streams in files of a list are left to the library.
    """
    if not header.gzipped or header.end is None or "HeaderSize" in header.text:
        return
    named = header.data_files
    if len(named) > 1:
        return
    path, start = (named[0], 0) if named else (header.path, header.end)
    with path.open("rb") as file:
        file.seek(start)
        is_nrrd = header.path.suffix.lower() in NRRD_SUFFIXES
        try:
            length = _gzip_length(file) if is_nrrd else _zlib_length(file, _stated(header, file))
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(path, f"its packed voxels can't be unpacked ({error})") from None
    if length < claimed:
        raise _damaged(path, f"{claimed - length} bytes of voxels are missing")


def _stated(header: TextHeader, file: IO[bytes]) -> int:
    """Bytes of a packed MetaImage, by its header or, if that is silent, by the file."""
    there = os.fstat(file.fileno()).st_size - file.tell()
    stated = int(header.fields.get("compresseddatasize", there))
    if not 0 <= stated <= there:
        raise EOFError(f"CompressedDataSize = {stated}, the file has {there} bytes of them")
    return stated


def _gzip_length(file: IO[bytes]) -> int:
    length = 0
    with gzip.GzipFile(fileobj=file) as stream:
        while block := stream.read(BLOCK):
            length += len(block)
    return length


def _zlib_length(file: IO[bytes], size: int) -> int:
    """size: of the stream at most, from here."""
    unpacker, end = zlib.decompressobj(47), file.tell() + size
    length = 0
    while not unpacker.eof:
        block = unpacker.unconsumed_tail or file.read(min(BLOCK, end - file.tell()))
        if not block:
            raise EOFError("the stream is cut")
        length += len(unpacker.decompress(block, BLOCK))
    return length


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"{path}: {found}", "the file is truncated or damaged; get it again")

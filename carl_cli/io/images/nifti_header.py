"""NIfTI headers: both versions, both byte orders, and Analyze 7.5's, as one description."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from math import isfinite, isinf, prod
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError

SCALARS = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4",
    1024: "i8", 1280: "u8",
}  # fmt: skip
COLOURS = {128: 3, 2304: 4}
NIFTI1_HEADER, NIFTI2_HEADER = 348, 540
GZIP_MAGIC, SINGLE_MAGIC, PAIR_MAGIC = b"\x1f\x8b", b"n+1\0", b"ni1\0"
NIFTI2_MAGIC = (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")
SHEAR_TOLERANCE, HALF_TURN = 1e-3, 1e-7
TIME_UNIT, SECONDS = 0x38, {16: 1e-3, 24: 1e-6}  # of xyzt_units; else seconds
LAST_FORM = 5  # of the codes that say what a form refers to


@dataclass(frozen=True)
class Header:
    """The fields that say how to read the voxels, and both affines (RAS mm)."""

    version: int  # 0 is Analyze
    endian: str
    shape: tuple[int, ...]
    datatype: int
    offset: int
    rescale: tuple[float, ...]
    intent: int
    pixdim: tuple[float, ...]
    qform: NDArray[np.float64] | None
    sform: NDArray[np.float64] | None
    prefers_sform: bool
    raw: bytes

    @property
    def colours(self) -> int:
        return COLOURS.get(self.datatype, 1)

    @property
    def time_step(self) -> float:
        """From volume to volume, in seconds where the header names a unit of time."""
        code, at = ("i", 500) if self.version == 2 else ("b", 123)
        units = struct.unpack_from(self.endian + code, self.raw, at)[0]
        return (abs(self.pixdim[3]) or 1.0) * SECONDS.get(units & TIME_UNIT, 1.0)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        code = "u1" if self.colours > 1 else SCALARS[self.datatype]
        return np.dtype(self.endian + code)

    @property
    def claimed_bytes(self) -> int:
        return prod(self.shape) * self.colours * self.dtype.itemsize


def open_packed(path: Path) -> BinaryIO:
    """The file's bytes, unpacked if they are a gzip stream, whatever its name says."""
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb") if packed else open(path, "rb"))


def start_of(path: Path) -> bytes:
    """As many bytes as the longer header has; InputError if they can't be unpacked."""
    try:
        with open_packed(path) as file:
            return file.read(NIFTI2_HEADER)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or truncated ({error})", "get the file again") from None


def is_whole(path: Path) -> bool:
    """Whether a single file that was just written holds all its header promises.

    ITK's NIfTI writer does not tell when the disk is full. A gzip stream ends with the length
    of what it packs, modulo 2**32.
    """
    try:
        header = parse_header(start_of(path), path)
    except InputError:
        return False
    promised = header.offset + header.claimed_bytes
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP_MAGIC
        size = file.seek(-4, SEEK_END) + 4
        length = int.from_bytes(file.read(), "little")
    return length == promised % 2**32 if packed else size >= promised


def parse_header(raw: bytes, path: Path) -> Header:
    """First bytes of a file → Header; either version, either byte order."""
    for endian in "<>":
        size = struct.unpack_from(endian + "i", raw)[0] if len(raw) >= NIFTI1_HEADER else 0
        if size == NIFTI1_HEADER:
            _check_magic(raw, path)
            return _parse_nifti1(raw[:NIFTI1_HEADER], endian, path)
        if size == NIFTI2_HEADER and raw[4:12] in NIFTI2_MAGIC and len(raw) == NIFTI2_HEADER:
            return _parse_nifti2(raw, endian, path)
    found = "it is empty" if not raw else "the header is not NIfTI or is truncated"
    raise InputError(f"{path}: {found}", "give a .nii, .nii.gz or .hdr/.img file")


def _check_magic(raw: bytes, path: Path) -> None:
    """Analyze 7.5 has no mark, but it has two files: one file without its mark is damaged."""
    mark, single = raw[344:348], ".nii" in path.name.lower()
    near = any(word in raw[300:] for word in (b"ni1", b"n+1")) or mark[:1] == b"n"
    if mark != SINGLE_MAGIC and (single or (near and mark != PAIR_MAGIC)):
        raise InputError(
            f"{path}: the header is damaged: its mark is {mark!r}, {SINGLE_MAGIC!r} was expected",
            "get the file again",
        )


def _parse_nifti1(raw: bytes, endian: str, path: Path) -> Header:
    def get(code: str, at: int) -> tuple[float, ...]:
        return struct.unpack_from(endian + code, raw, at)

    nifti = raw[344:347] in (b"n+1", b"ni1")
    pixdim = get("8f", 76)
    qcode, scode = _checked_codes(get("2h", 252), path) if nifti else (0, 0)
    return Header(
        version=int(nifti),
        endian=endian,
        shape=_checked_shape(get("8h", 40), path),
        datatype=int(get("h", 70)[0]),
        offset=_checked_offset(get("f", 108)[0], NIFTI1_HEADER, raw, path),
        rescale=_checked_rescale(get("2f", 112), path) if nifti else (1.0, 0.0),
        intent=int(get("h", 68)[0]) if nifti else 0,
        pixdim=pixdim[1:],
        qform=_qform(get("6f", 256), pixdim) if qcode > 0 else None,
        sform=_sform(get("12f", 280)) if scode > 0 else None,
        prefers_sform=scode == 1 or qcode <= 0,
        raw=raw,
    )


def _parse_nifti2(raw: bytes, endian: str, path: Path) -> Header:
    def get(code: str, at: int) -> tuple[float, ...]:
        return struct.unpack_from(endian + code, raw, at)

    pixdim = get("8d", 104)
    qcode, scode = _checked_codes(get("2i", 344), path)
    return Header(
        version=2,
        endian=endian,
        shape=_checked_shape(get("8q", 16), path),
        datatype=int(get("h", 12)[0]),
        offset=_checked_offset(get("q", 168)[0], NIFTI2_HEADER, raw, path),
        rescale=_checked_rescale(get("2d", 176), path),
        intent=int(get("i", 504)[0]),
        pixdim=pixdim[1:],
        qform=_qform(get("6d", 352), pixdim) if qcode > 0 else None,
        sform=_sform(get("12d", 400)) if scode > 0 else None,
        prefers_sform=scode == 1 or qcode <= 0,
        raw=raw,
    )


def _checked_offset(offset: float, header: int, raw: bytes, path: Path) -> int:
    """Where the voxels begin: after the header, in one file. Readers disagree on what 0 means."""
    single = raw[4:8] == b"n+2\0" or raw[344:348] == SINGLE_MAGIC
    if not 0 <= offset < 2**62 or (single and offset < header):
        raise InputError(f"{path}: the header puts the voxels at byte {offset}", "get it again")
    return int(offset)


def _checked_codes(codes: tuple[float, ...], path: Path) -> tuple[int, int]:
    """Of the qform and the sform: what either refers to."""
    if not all(0 <= code <= LAST_FORM for code in codes):
        raise InputError(
            f"{path}: qform and sform code {codes}, 0 to {LAST_FORM} were expected",
            "the header is damaged; get the file again",
        )
    return int(codes[0]), int(codes[1])


def _checked_rescale(rescale: tuple[float, ...], path: Path) -> tuple[float, float]:
    """Slope and intercept. A slope that is 0 or no number says that there is none."""
    slope, intercept = rescale
    if isinf(slope) or (isfinite(slope) and slope != 0 and not isfinite(intercept)):
        raise InputError(
            f"{path}: slope {slope} and intercept {intercept} of its voxels, numbers were expected",
            "repair the header's scl_slope and scl_inter",
        )
    return slope, intercept


def _checked_shape(dim: tuple[float, ...], path: Path) -> tuple[int, ...]:
    """(x, y, z, t, …) without trailing ones beyond three axes."""
    count = int(dim[0])
    sizes = [int(n) for n in dim[1 : count + 1]]
    if not 2 <= count <= 7 or min(sizes) < 1:
        raise InputError(f"{path}: the header claims dimensions {dim}", "the file is damaged")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _sform(rows: tuple[float, ...]) -> NDArray[np.float64]:
    return np.vstack([np.reshape(rows, (3, 4)), [0, 0, 0, 1]])


def _qform(values: tuple[float, ...], pixdim: tuple[float, ...]) -> NDArray[np.float64]:
    """Quaternion (b, c, d) and offset → 4x4, as the reference's nifti_quatern_to_mat44 has it.

    What single precision leaves of 1 - (b² + c² + d²) is no angle: below HALF_TURN it is a turn by
    180°, as in coronal volumes.
    """
    vector = np.array(values[:3])
    with np.errstate(all="ignore"):  # numbers that are none are refused by the reader
        rest = 1.0 - vector @ vector
        if rest < HALF_TURN:
            vector = vector / np.linalg.norm(vector)
            rest = 0.0
        a, (b, c, d) = np.sqrt(rest), vector
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        handedness = -1.0 if pixdim[0] < 0 else 1.0
        affine = np.eye(4)
        affine[:3, :3] = rotation * [pixdim[1], pixdim[2], handedness * pixdim[3]]
        affine[:3, 3] = values[3:]
    return affine


def as_nifti1(header: Header) -> bytes:
    """The same geometry as a NIfTI-1 file without voxels; sizes are cut to fit.

    Tensors are called vectors: SimpleITK has no pixels that are tensors.
    """
    if header.version == 1:
        made = bytearray(header.raw[:344] + b"n+1\0" + bytes(4))
        if header.intent == INTENT_TENSOR:
            struct.pack_into(header.endian + "h", made, INTENT_OFFSET, INTENT_VECTOR)
        return bytes(made)
    old, new, order = header.raw, bytearray(NIFTI1_HEADER + 4), header.endian
    sizes = np.clip(struct.unpack_from(order + "8q", old, 16), -1, 32767).tolist()
    struct.pack_into(order + "i", new, 0, NIFTI1_HEADER)
    struct.pack_into(order + "8h", new, 40, *sizes)
    struct.pack_into(order + "2h", new, 70, header.datatype, 8 * header.dtype.itemsize)
    struct.pack_into(order + "8f", new, 76, *_as_floats(order + "8d", old, 104))
    struct.pack_into(order + "f", new, 108, NIFTI1_HEADER + 4)
    codes = np.clip(struct.unpack_from(order + "2i", old, 344), -1, 32767).tolist()
    struct.pack_into(order + "2h", new, 252, *codes)
    struct.pack_into(order + "6f", new, 256, *_as_floats(order + "6d", old, 352))
    struct.pack_into(order + "12f", new, 280, *_as_floats(order + "12d", old, 400))
    new[344:348] = b"n+1\0"
    return bytes(new)


def _as_floats(layout: str, raw: bytes, at: int) -> list[float]:
    """Numbers beyond single precision become infinite ones, which are refused later."""
    with np.errstate(over="ignore"):
        values = np.asarray(struct.unpack_from(layout, raw, at)).astype(np.float32)
    return [float(number) for number in values]


def is_sheared(affine: NDArray[np.float64]) -> bool:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() == 0:
        return True
    axes = affine[:3, :3] / lengths
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE)


INTENT_TENSOR = 1005
TENSOR_NUMBERS = 6
INTENT_DISPLACEMENT = 1006
INTENT_VECTOR = 1007
INTENT_OFFSET = 68  # in NIfTI-1
NAME_OFFSET = {1: 328, 2: 508}


def read_header(path: Path) -> Header:
    """Of a NIfTI file, compressed or not. Raises InputError."""
    return parse_header(start_of(path), path)


def intent_name(header: Header) -> str:
    start = NAME_OFFSET.get(header.version, 0)
    return header.raw[start : start + 16].split(b"\0")[0].decode("latin-1")

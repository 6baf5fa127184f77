"""MRtrix's images, `.mif` and `.mif.gz`: a header in text, then the voxels in any order of axes.

No library for Python reads them. `transform` places the axes of the image in RAS mm whatever the
order (`layout`) in which the voxels are stored.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError, OutputError
from carl_cli.geometry import Array, Grid
from carl_cli.io.images.image import Image
from carl_cli.io.images.nifti_header import open_packed
from carl_cli.io.numbers import as_numbers, as_whole
from carl_cli.io.ras import grid_from_ras, voxel_to_ras
from carl_cli.io.sitk_bridge import GZIP_LIMIT

SUFFIXES = (".mif", ".mif.gz")
MAGIC, END = "mrtrix image", "END"
LONGEST_HEADER = 1 << 24  # histories and gradient tables are long
KINDS = {"int": "i", "uint": "u", "float": "f"}
ORDERS = {"": "=", "le": "<", "be": ">"}


@dataclass(frozen=True)
class Header:
    """layout: for each axis its rank, 0 varying fastest, and whether it is stored backwards.

    dtype: None for single bits. affine: (4, 4) index → RAS mm. scaling: (offset, scale).
    """

    size: tuple[int, ...]
    steps: tuple[float, ...]
    layout: tuple[tuple[int, bool], ...]
    dtype: np.dtype[np.generic] | None
    affine: Array
    scaling: tuple[float, float]
    offset: int

    @property
    def claimed_bytes(self) -> int:
        count = prod(self.size)
        return -(-count // 8) if self.dtype is None else count * self.dtype.itemsize


def read_mif(path: Path) -> Image:
    """Voxels and volumes. Raises InputError for a damaged file and for complex numbers."""
    header = _read_header(path)
    content = _unpacked(path, GZIP_LIMIT * path.stat().st_size)
    missing = header.offset + header.claimed_bytes - len(content)
    if missing > 0:
        raise InputError(f"{path}: {missing} bytes of voxels are missing", "get the file again")
    array = _scaled(_ordered(_voxels(content, header), header), header.scaling)
    grid = grid_from_ras(header.affine, header.size[:3])
    if array.ndim == 3:
        return Image(array, grid, source=str(path))
    if array.shape[-1] == 1:
        return Image(np.ascontiguousarray(array[..., 0]), grid, source=str(path))
    step = header.steps[3] if math.isfinite(header.steps[3]) and header.steps[3] > 0 else 1.0
    return Image(array, grid, array.shape[-1], str(path), "time", step)


def read_mif_grid(path: Path) -> Grid:
    """The grid alone, from the header; of a series, that of one volume."""
    header = _read_header(path)
    return grid_from_ras(header.affine, header.size[:3])


def _unpacked(path: Path, most: int) -> bytes:
    try:
        with open_packed(path) as file:
            return file.read(most)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or truncated ({error})", "get the file again") from None


def _read_header(path: Path) -> Header:
    text, end, _ = _unpacked(path, LONGEST_HEADER).partition(b"\n" + END.encode())
    first, *rest = text.decode("latin-1").split("\n")
    if first.strip() != MAGIC or not end:
        raise InputError(
            f"{path}: does not begin with a header from {MAGIC!r} to {END}",
            "check that it is a whole image of MRtrix",
        )
    entries: dict[str, list[str]] = {}
    for line in rest:
        key, _, value = line.partition(":")
        entries.setdefault(key.strip().lower(), []).append(value.strip())
    try:
        header = _parsed(entries)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: a damaged MRtrix header ({error})", "mrconvert writes it again"
        ) from None
    _check(header, path)
    return header


def _parsed(entries: dict[str, list[str]]) -> Header:
    """Raises KeyError, ValueError or IndexError for what is missing or no number."""
    size = tuple(as_whole(word) for word in entries["dim"][0].split(","))
    steps = tuple(as_numbers(entries["vox"][0].split(",")))
    rows = [as_numbers(row.split(",")) for row in entries["transform"][:3]]
    affine = np.eye(4)
    affine[:3] = np.reshape(rows, (3, 4))
    affine[:3, :3] *= steps[:3]
    name, _, offset = entries["file"][0].partition(" ")
    if name != ".":
        raise ValueError(f"the voxels stand in another file, {name}")
    shift, scale = as_numbers(entries.get("scaling", ["0,1"])[0].split(","))
    layout = tuple(
        (abs(as_whole(word)), word.startswith("-")) for word in _words(entries, "layout")
    )
    dtype = _dtype(entries["datatype"][0])
    return Header(size, steps, layout, dtype, affine, (shift, scale), as_whole(offset))


def _words(entries: dict[str, list[str]], key: str) -> list[str]:
    return [word.strip() for word in entries[key][0].split(",")]


def _dtype(name: str) -> np.dtype[np.generic] | None:
    lower = name.lower()
    if lower == "bit":
        return None
    order = next((end for end in ("le", "be") if lower.endswith(end)), "")
    kind = lower.removesuffix(order).rstrip("0123456789")
    if kind not in KINDS:
        raise ValueError(f"voxels of type {name}, real numbers were expected")
    bits = as_whole(lower.removesuffix(order)[len(kind) :])
    if bits not in (8, 16, 32, 64):
        raise ValueError(f"voxels of {bits} bits")
    return np.dtype(f"{ORDERS[order]}{KINDS[kind]}{bits // 8}")


def _check(header: Header, path: Path) -> None:
    axes = len(header.size)
    ranks = sorted(rank for rank, _ in header.layout)
    if axes not in (3, 4) or min(header.size) < 1:
        size = " x ".join(map(str, header.size))
        raise InputError(f"{path}: an image of {size}, 3 axes or 4 were expected", "split it first")
    if len(header.steps) != axes or ranks != list(range(axes)) or header.offset < 0:
        raise InputError(
            f"{path}: a damaged MRtrix header (vox, layout or file)", "mrconvert writes it again"
        )
    most = GZIP_LIMIT * path.stat().st_size
    if header.claimed_bytes > most:
        raise InputError(
            f"{path}: the header claims {header.claimed_bytes} bytes of voxels, the file has "
            f"{path.stat().st_size}",
            "the file is truncated or its header damaged; get it again",
        )


def _voxels(content: bytes, header: Header) -> NDArray[np.generic]:
    """Flat, as they are stored, in native byte order."""
    count = prod(header.size)
    if header.dtype is None:
        octets = np.frombuffer(content, np.uint8, header.claimed_bytes, header.offset)
        return np.unpackbits(octets, count=count)
    flat = np.frombuffer(content, header.dtype, count, header.offset)
    if header.dtype.itemsize == 2 and header.dtype.kind == "f":
        return flat.astype(np.float32)  # ITK knows no half precision
    return flat.astype(header.dtype.newbyteorder("="))


def _ordered(flat: NDArray[np.generic], header: Header) -> NDArray[np.generic]:
    """(z, y, x) or (z, y, x, volume)."""
    slowest_first = sorted(range(len(header.size)), key=lambda axis: -header.layout[axis][0])
    array = flat.reshape([header.size[axis] for axis in slowest_first])
    backwards = [k for k, axis in enumerate(slowest_first) if header.layout[axis][1]]
    wanted = (2, 1, 0, 3)[: len(header.size)]
    array = np.flip(array, backwards).transpose([slowest_first.index(axis) for axis in wanted])
    return np.ascontiguousarray(array)


def _scaled(array: NDArray[np.generic], scaling: tuple[float, float]) -> NDArray[np.generic]:
    if scaling == (0.0, 1.0):
        return array
    narrow = array.dtype.itemsize <= 2 or array.dtype == np.float32
    scaled = array.astype(np.float64) * scaling[1] + scaling[0]
    return scaled.astype(np.float32 if narrow else np.float64)


def write_mif(path: Path, image: Image) -> None:
    """Volumes are the fourth axis. Raises OutputError for a 2D image."""
    if image.grid.dimension != 3:
        raise OutputError(f"{path}: a 3D image was expected", "write .nii.gz")
    array = _as_held(image.array)
    voxels = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    content = _header_text(image, array.dtype) + voxels.tobytes()
    path.write_bytes(gzip.compress(content, 6) if path.suffix.lower() == ".gz" else content)


def _as_held(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Truth values as uint8, half precision as float32: MRtrix has neither."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _header_text(image: Image, dtype: np.dtype[np.generic]) -> bytes:
    series = image.channels > 1
    affine = voxel_to_ras(image.grid)
    affine[:3, :3] /= image.grid.spacing_mm
    kind = {code: name for name, code in (("Int", "i"), ("UInt", "u"), ("Float", "f"))}[dtype.kind]
    size = (*image.grid.size_xyz, image.channels) if series else image.grid.size_xyz
    steps = (*image.grid.spacing_mm, image.time_step) if series else image.grid.spacing_mm
    rows = [",".join(f"{value:.17g}" for value in row) for row in affine[:3]]
    lines = [
        MAGIC,
        f"dim: {','.join(map(str, size))}",
        f"vox: {','.join(f'{step:.17g}' for step in steps)}",
        f"layout: {'+1,+2,+3,+0' if series else '+0,+1,+2'}",
        f"datatype: {kind}{8 * dtype.itemsize}{'LE' if dtype.itemsize > 1 else ''}",
        *(f"transform: {row}" for row in rows),
    ]
    text = "\n".join(lines)
    offset = -(-(len(text) + 64) // 64) * 64
    return f"{text}\nfile: . {offset}\n{END}\n".encode().ljust(offset, b"\0")

"""FreeSurfer's volumes, `.mgz` and `.mgh`, by nibabel.

The whole file is unpacked here, so that a gzip stream's checksum is verified: nibabel stops at the
last voxel.
"""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError, OutputError
from carl_cli.geometry import Grid
from carl_cli.io.images.image import Image
from carl_cli.io.images.nifti_header import open_packed
from carl_cli.io.ras import grid_from_ras, voxel_to_ras
from carl_cli.io.sitk_bridge import GZIP_LIMIT

SUFFIXES = (".mgz", ".mgh")
HEADER, SCAN = 284, 20
"""Bytes before the voxels, and of the scan's parameters behind them."""
WARP = 3
"""What FreeSurfer writes into the second byte of the version of a warp, 0 for an image."""
VERSION = (1).to_bytes(4, "big")
VOXELS: tuple[type[np.generic], ...] = (np.uint8, np.int16, np.int32, np.float32)


def read_mgh(path: Path) -> Image:
    """Voxels and frames. Raises InputError for a damaged file."""
    import nibabel  # late: 0.2 s

    content = unpacked(path)
    try:
        stored = nibabel.MGHImage.from_bytes(VERSION + content[len(VERSION) :])
        claimed = prod(map(int, stored.shape)) * stored.get_data_dtype().itemsize
        if not 0 < claimed <= len(content):
            raise ValueError(f"its header claims {claimed} bytes of voxels")
        array: NDArray[np.generic] = np.asanyarray(stored.dataobj).T
    except Exception as error:  # nibabel raises many kinds
        raise InputError(f"{path}: a damaged MGH file ({error})", "get the file again") from None
    grid = grid_from_ras(stored.affine, stored.shape[:3])
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 3:
        return Image(np.ascontiguousarray(array), grid, source=str(path))
    step = float(stored.header.get_zooms()[3]) or 1.0
    frames = np.ascontiguousarray(np.moveaxis(array, 0, -1))
    if frames.shape[-1] == 1:
        return Image(frames[..., 0], grid, source=str(path))
    return Image(frames, grid, frames.shape[-1], str(path), "time", step)


def read_mgh_grid(path: Path) -> Grid:
    """The grid alone, from the header."""
    import nibabel

    content = unpacked(path, HEADER)
    try:
        header = nibabel.freesurfer.mghformat.MGHHeader(VERSION + content[len(VERSION) :])
        return grid_from_ras(header.get_affine(), header.get_data_shape()[:3])
    except Exception as error:
        raise InputError(f"{path}: a damaged MGH file ({error})", "get the file again") from None


def is_warp(path: Path) -> bool:
    """Whether the header declares a warp. Raises InputError if it can't be unpacked."""
    version = int.from_bytes(unpacked(path, len(VERSION)), "big")
    return version >> 8 & 0xFFFF == WARP


def unpacked(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file, by default all. Raises InputError for a damaged gzip stream."""
    try:
        with open_packed(path) as file:
            return file.read(GZIP_LIMIT * path.stat().st_size if most is None else most)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or truncated ({error})", "get the file again") from None


def write_mgh(path: Path, image: Image) -> None:
    """Time points become frames. Raises OutputError for voxels that the format can't hold."""
    import nibabel

    if image.grid.dimension != 3:
        raise OutputError(f"{path}: a 3D image was expected", "write .nii.gz")
    array = _as_held(image.array, path)
    planes = np.moveaxis(array, -1, 0) if image.channels > 1 else array
    made = nibabel.MGHImage(planes.T, voxel_to_ras(image.grid))
    content = made.to_bytes()
    path.write_bytes(gzip.compress(content, 6) if path.suffix.lower() == ".mgz" else content)


def _as_held(array: NDArray[np.generic], path: Path) -> NDArray[np.generic]:
    """uint8, int16, int32 or float32: other integers as int32 if they fit, doubles as float32."""
    if array.dtype.type in VOXELS:
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    held = array.astype(np.int32)
    if not np.array_equal(held, array):
        raise OutputError(f"{path}: MGH holds 32-bit integers at most", "write .nii.gz")
    return held

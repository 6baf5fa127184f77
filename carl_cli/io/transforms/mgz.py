"""FreeSurfer's warps in `.mgz`: what the numbers are stands behind the voxels.

The version in the header tells that it is a warp. Tags after the voxels (number, for most a length,
content; big-endian) hold the geometries of the moving (source) and the fixed (target) image and
which of four things the numbers are.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.images.image import Image
from carl_cli.io.images.mgh import HEADER, SCAN, WARP, is_warp, read_mgh, unpacked, write_mgh
from carl_cli.io.ras import flip_vectors, to_lps, voxel_to_ras
from carl_cli.io.transforms.fields import positions_as_field
from carl_cli.transforms import DisplacementField

GEOMETRIES, KIND, GEOMETRIES_WITH_SHEAR = 10, 13, 15
WITHOUT_LENGTH = {GEOMETRIES: 2 * 588, 11: 4}
"""Bytes of tags that come without their length."""
VOXELS, VOXEL_STEPS, POSITIONS, DISPLACEMENTS = range(4)


class Geometry(NamedTuple):
    """Of an image: what a tag holds."""

    size: Array
    spacing_mm: Array
    directions: Array
    centre_ras: Array

    @property
    def index_to_lps(self) -> Array:
        matrix = np.eye(4)
        matrix[:3, :3] = self.directions * self.spacing_mm
        matrix[:3, 3] = self.centre_ras - matrix[:3, :3] @ (self.size / 2)
        return to_lps(matrix)


def read_mgz_field(path: Path) -> DisplacementField:
    """Fixed to moving, LPS. Raises InputError for an image and for a warp without its tags."""
    if not is_warp(path):
        raise InputError(
            f"{path}: this is an image, not a transform",
            "if three frames of it are RAS displacements: carl convert --from synthmorph",
        )
    image = _three_frames(path)
    tags = _tags(path, image)
    if len(tags.get(KIND, b"")) < 4 or GEOMETRIES not in tags:
        raise InputError(f"{path}: a warp that does not say what its numbers are", "get it again")
    kind = struct.unpack_from(">i", tags[KIND])[0]
    if kind not in range(4):
        raise InputError(f"{path}: a warp of kind {kind}, 0 to 3 were expected")
    return _field(image, kind, _geometry(tags[GEOMETRIES]))


def read_mgz_displacements(path: Path) -> DisplacementField:
    """A warp as it says, or three frames that are RAS displacements."""
    if is_warp(path):
        return read_mgz_field(path)
    image = _three_frames(path)
    return DisplacementField(image.grid, flip_vectors(image.array.astype(np.float32)))


def _three_frames(path: Path) -> Image:
    image = read_mgh(path)
    if image.channels != 3:
        raise InputError(f"{path}: {image.channels} frames, a warp has 3 (x, y, z)")
    return image


def _field(image: Image, kind: int, moving: Geometry) -> DisplacementField:
    """Numbers of any kind as LPS displacements on the fixed grid."""
    values = image.array.astype(float)
    if kind == VOXEL_STEPS:
        index = np.stack(np.meshgrid(*map(np.arange, image.grid.shape_zyx), indexing="ij"), -1)
        values = values + index[..., ::-1]
    if kind in (VOXELS, VOXEL_STEPS):
        values = apply_affine(moving.index_to_lps, values)
    else:
        values = flip_vectors(values)
    if kind == DISPLACEMENTS:
        return DisplacementField(image.grid, values.astype(np.float32))
    return positions_as_field(Image(values, image.grid, 3))


def _tags(path: Path, image: Image) -> dict[int, bytes]:
    """Tag → content, as far as they can be told apart."""
    content = unpacked(path)
    at, found = HEADER + image.array.size * image.array.dtype.itemsize + SCAN, {}
    while at + 12 <= len(content):
        tag = struct.unpack_from(">i", content, at)[0]
        at += 4
        if tag in WITHOUT_LENGTH:
            length = WITHOUT_LENGTH[tag]
        else:
            length = struct.unpack_from(">q", content, at)[0]
            at += 8
        if tag <= 0 or not 0 <= length <= len(content) - at:
            break
        found[tag] = content[at : at + length]
        at += length
    return found


def _geometry(content: bytes) -> Geometry:
    """The first of the two: valid, size, voxel sizes, directions (axis after axis), centre."""
    numbers = struct.unpack_from(">4i15f", content)
    directions = np.reshape(numbers[7:16], (3, 3)).T
    return Geometry(*map(np.array, (numbers[1:4], numbers[4:7], directions, numbers[16:])))


def write_mgz_field(path: Path, field: DisplacementField, moving: Grid) -> None:
    """RAS displacements and both geometries."""
    values = flip_vectors(field.displacement_mm).astype(np.float32)
    write_mgh(path, Image(values, field.grid, 3, channel_kind="time"))
    content = bytearray(unpacked(path))
    struct.pack_into(">i", content, 0, WARP << 8 | 1)
    grids = (moving, field.grid)
    content += struct.pack(">i", GEOMETRIES) + b"".join(_packed(grid, 0) for grid in grids)
    sheared = b"".join(_packed(grid, 3) for grid in grids)
    content += struct.pack(">iq", GEOMETRIES_WITH_SHEAR, len(sheared)) + sheared
    content += struct.pack(">iqiif", KIND, 12, DISPLACEMENTS, 1, 0.0)
    packed = path.name.lower().endswith("z")
    path.write_bytes(gzip.compress(bytes(content), 6) if packed else content)


def _packed(grid: Grid, shears: int) -> bytes:
    """As `_geometry` reads it, then as many zeros for shears, then no file name."""
    affine = voxel_to_ras(grid)
    centre = affine[:3, :3] @ (np.array(grid.size_xyz) / 2) + affine[:3, 3]
    directions = affine[:3, :3] / grid.spacing_mm
    numbers = [*grid.spacing_mm, *directions.T.ravel(), *centre, *([0.0] * shears)]
    return struct.pack(f">4i{15 + shears}f512x", 1, *grid.size_xyz, *numbers)

"""FreeSurfer's dialects, all in RAS: EasyReg and SynthMorph fields, linear transforms (LTA).

EasyReg stores, on the reference grid, the RAS position in the floating image; SynthMorph the
RAS displacement to the moving image. Both are NIfTI with three volumes and no intent that
says so, hence they are read only when named. An LTA maps the moving (src) to the fixed (dst)
image, the inverse of what resamples.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images import nifti_header as nifti
from carl_cli.io.images.image import Image, to_sitk
from carl_cli.io.images.mif import SUFFIXES as MIF
from carl_cli.io.images.mif import write_mif
from carl_cli.io.numbers import as_numbers, as_whole
from carl_cli.io.ras import affine_from_ras, affine_to_ras, flip_vectors, voxel_to_ras
from carl_cli.io.sitk_bridge import save
from carl_cli.io.transforms.fields import (
    SPM_NAME,
    Extension,
    read_field,
    read_vectors,
    write_vectors,
)
from carl_cli.transforms import AffineTransform, DisplacementField
from carl_cli.transforms.interpolation import Floats

VOXEL_TO_VOXEL, RAS_TO_RAS = 0, 1
EXTENSION_CODE, WARP, RAS_DISPLACEMENT = 14, 3, 3
TAG_GEOMETRIES, TAG_KIND, TAG_END = 10, 13, -1


def read_synthmorph(path: Path) -> DisplacementField:
    """Of today (intent 1006, five axes) or without an intent that says what the numbers are."""
    if nifti.read_header(path).intent == nifti.INTENT_DISPLACEMENT:
        return read_field(path)
    vectors = read_vectors(path)
    return DisplacementField(vectors.grid, vectors.array.astype(np.float32))


def write_easyreg(path: Path, field: DisplacementField) -> None:
    """Three volumes of positions."""
    held = Image(flip_vectors(_positions(field)), field.grid, 3, channel_kind="time")
    if full_suffix(path).lower() in MIF:
        write_mif(path, held)
    else:
        save(to_sitk(held), path, compress=True)


def write_spm(path: Path, field: DisplacementField) -> None:
    """Positions under the intent by which SPM knows a deformation."""
    write_vectors(path, Image(_positions(field), field.grid, 3), nifti.INTENT_VECTOR, SPM_NAME)


def write_synthmorph(path: Path, field: DisplacementField, moving: Grid | None) -> None:
    """RAS displacements; with both geometries in FreeSurfer's extension of the header if known."""
    values = Image(field.displacement_mm, field.grid, 3)
    held = _extension(moving, field.grid) if moving else b""
    extension = Extension(EXTENSION_CODE, held) if held else None
    write_vectors(path, values, nifti.INTENT_DISPLACEMENT, extension=extension)


def _extension(moving: Grid, fixed: Grid) -> bytes:
    """Big-endian: what the numbers are, then tags (number, length, content)."""
    geometries = _geometry(moving) + _geometry(fixed)
    kind = struct.pack(">iif", RAS_DISPLACEMENT, 1, 0.0)
    tags = ((TAG_GEOMETRIES, geometries), (TAG_KIND, kind), (TAG_END, b"*"))
    content = b"".join(struct.pack(">iq", tag, len(held)) + held for tag, held in tags)
    return b">" + struct.pack(">HB", WARP, 1) + content


def _geometry(grid: Grid) -> bytes:
    """Valid, size, voxel sizes, directions of the axes and centre in RAS; no file name."""
    centre, directions = _centre_and_directions(grid)
    numbers = [*grid.spacing_mm, *directions.T.ravel(), *centre]
    return struct.pack(">4i15fi", 1, *grid.size_xyz, *numbers, 0)


def _centre_and_directions(grid: Grid) -> tuple[Array, Array]:
    affine = voxel_to_ras(grid)
    centre = affine[:3, :3] @ (np.array(grid.size_xyz) / 2) + affine[:3, 3]
    return centre, affine[:3, :3] / np.array(grid.spacing_mm)


def _positions(field: DisplacementField) -> Floats:
    positions = field.displacement_mm + field.grid.points_mm()
    return np.asarray(positions, np.float32)


def read_lta(path: Path) -> AffineTransform:
    """Fixed to moving, LPS. Types VOX_TO_VOX and RAS_TO_RAS (scanner coordinates)."""
    try:
        text = path.read_text()
        kind, matrix = as_whole(_field(text, "type")[0]), _matrix(text)
        if kind == VOXEL_TO_VOXEL:
            source, target = (_volume_to_ras(text, name) for name in ("src", "dst"))
            matrix = target @ matrix @ np.linalg.inv(source)
        elif kind != RAS_TO_RAS:
            raise InputError(f"{path}: LTA of type {kind}", "lta_convert --outlta makes type 1")
        return affine_from_ras(matrix).inverse()
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a FreeSurfer LTA: {error}") from error


def _matrix(text: str) -> Array:
    """(4, 4) of the one transform, a line each row."""
    if (count := as_whole(_field(text, "nxforms")[0])) != 1:
        raise ValueError(f"{count} transforms, one was expected")
    lines = re.split(r"^1 4 4\s*$", text, maxsplit=1, flags=re.MULTILINE)[1].strip().splitlines()
    matrix = np.array([as_numbers(line.split()) for line in lines[:4]])
    if matrix.shape != (4, 4) or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise ValueError("no affine matrix")
    return matrix


def _field(text: str, name: str) -> list[str]:
    match = re.search(rf"^\s*{name}\s*=\s*([^#\n]*)", text, re.MULTILINE)
    if match is None:
        raise ValueError(f"no {name!r}")
    return match[1].split()


def _volume_to_ras(text: str, name: str) -> Array:
    """Voxel → scanner RAS from a "volume info" block: directions, voxel sizes and centre."""
    block = re.split(rf"^{name} volume info", text, flags=re.MULTILINE)[1]
    block = re.split(r"^\w+ volume info", block, flags=re.MULTILINE)[0]
    if _field(block, "valid") != ["1"]:
        raise ValueError(f"the geometry of its {name} is not valid")
    numbers = {
        key: np.array(as_numbers(_field(block, key)))
        for key in ("volume", "voxelsize", "xras", "yras", "zras", "cras")
    }
    result = np.eye(4)
    axes = [numbers[key] for key in ("xras", "yras", "zras")]
    result[:3, :3] = np.column_stack(axes) * numbers["voxelsize"]
    result[:3, 3] = numbers["cras"] - result[:3, :3] @ (numbers["volume"] / 2)
    return result


def write_lta(path: Path, affine: AffineTransform, fixed: Grid, moving: Grid) -> None:
    """Type RAS_TO_RAS, moving (src) to fixed (dst), with both geometries."""
    rows = affine_to_ras(affine.inverse())
    matrix = "\n".join(" ".join(f"{value: .15e}" for value in row) for row in rows)
    path.write_text(
        f"type      = {RAS_TO_RAS} # LINEAR_RAS_TO_RAS\nnxforms   = 1\n"
        f"mean      = 0.0000 0.0000 0.0000\nsigma     = 1.0000\n1 4 4\n{matrix}\n"
        f"src volume info\n{_volume_info(moving)}dst volume info\n{_volume_info(fixed)}"
    )


def _volume_info(grid: Grid) -> str:
    centre, directions = _centre_and_directions(grid)
    rows = [
        ("volume", grid.size_xyz),
        ("voxelsize", grid.spacing_mm),
        *zip(("xras  ", "yras  ", "zras  "), directions.T, strict=True),
        ("cras  ", centre),
    ]
    lines = [f"{name} = {' '.join(f'{value:.15g}' for value in values)}\n" for name, values in rows]
    return "valid = 1  # volume info valid\nfilename = none\n" + "".join(lines)

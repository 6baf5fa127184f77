"""NIfTI-1, NIfTI-2 and Analyze 7.5: voxels by numpy, geometry by ITK.

ITK's own reader fills what a truncated or damaged file lacks with zeros and does not say so,
allocates whatever a header claims and knows no NIfTI-2. Where an image lies in space is left
to ITK, so that a file means the same place here, in ANTs and in Slicer.
"""

from __future__ import annotations

import logging
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.image import ChannelKind, Image
from carl_cli.io.images.irregular import straight_grid, straightened_image, unit_grid, warn
from carl_cli.io.images.nifti_header import (
    COLOURS,
    GZIP_MAGIC,
    INTENT_DISPLACEMENT,
    INTENT_TENSOR,
    SCALARS,
    TENSOR_NUMBERS,
    Header,
    as_nifti1,
    is_sheared,
    open_packed,
    parse_header,
    start_of,
)
from carl_cli.io.ras import flip_vectors, to_lps, voxel_to_ras
from carl_cli.io.sitk_bridge import GZIP_LIMIT, read_grid

log = logging.getLogger(__name__)

COMPLEX = (32, 1792, 2048)
FORM_TOLERANCE_VOXELS = 0.05
SMALLEST_VOXEL_MM3 = 1e-9
SCALED_AT_ONCE = 2**20
DRAINED_AT_ONCE = 2**20


def is_nifti(path: Path) -> bool:
    """By its name: .nii, .hdr, .img, each also with .gz."""
    return path.name.lower().removesuffix(".gz").endswith((".nii", ".hdr", ".img"))


def read_nifti(path: Path, strict: bool = False) -> Image:
    """Read a NIfTI or Analyze file with all its volumes or components.

    The geometry is the one ITK chooses: sform if its code is 1 or there is no qform, else
    qform. Integers with a slope become float32 (wider than 16 bits: float64). What only a sheared
    sform places is resampled with a warning, or refused if `strict`. Raises InputError for complex
    numbers, truncated or damaged data and a bad header.
    """
    header_path, _ = _pair(path)
    affine = _sheared(_checked_header(header_path, path))
    if affine is None:
        return _shape_image(*read_numbers(path), read_nifti_grid(path), str(path))
    warn(path, "the sform is sheared and there is no qform", strict)
    numbers, header = read_numbers(path)
    image = _shape_image(numbers, header, unit_grid(header.shape[:3]), str(path))
    return straightened_image(image, affine)


def _sheared(header: Header) -> NDArray[np.float64] | None:
    """Index → LPS mm of a 3D image that nothing but a sheared sform places."""
    sform = header.sform
    if sform is None or header.qform is not None or len(header.shape) < 3 or not is_sheared(sform):
        return None
    usable = np.isfinite(sform).all() and abs(np.linalg.det(sform[:3, :3])) > SMALLEST_VOXEL_MM3
    return to_lps(sform) if usable else None


def read_numbers(path: Path) -> tuple[NDArray[np.generic], Header]:
    """All numbers of a file, x fastest, wherever its header places them."""
    header_path, data_path = _pair(path)
    header = _checked_header(header_path, path)
    return _scaled(_read_voxels(data_path, header), header), header


def read_nifti_grid(path: Path) -> Grid:
    """The grid alone; of a series, that of one volume."""
    header_path, _ = _pair(path)
    header = _checked_header(header_path, path)
    affine = _sheared(header)
    if affine is not None:
        return straight_grid(header.shape[:3], affine)
    return _geometry(header, header_path, path)


def _checked_header(header_path: Path, path: Path) -> Header:
    header = parse_header(start_of(header_path), path)
    _check_datatype(header, path)
    return header


def _pair(path: Path) -> tuple[Path, Path]:
    """(header, data) of `x.hdr` + `x.img`; of a single file, itself twice."""
    name = path.name
    stem = name[:-3] if name.lower().endswith(".gz") else name
    gz = name[len(stem) :]
    if stem.lower().endswith(".nii"):
        return path, path
    base = stem[:-4]
    upper = stem[-4:].isupper()
    names = [base + (s.upper() if upper else s) + gz for s in (".hdr", ".img")]
    header, data = (path.with_name(n) for n in names)
    for part in (header, data):
        if not part.exists():
            raise InputError(f"{path}: its other half {part.name} is missing", "keep both together")
    return header, data


def _check_datatype(header: Header, path: Path) -> None:
    if header.datatype in COMPLEX:
        raise InputError(
            f"{path}: complex voxels, real numbers were expected",
            "take the magnitude or the phase first",
        )
    if header.datatype not in SCALARS and header.datatype not in COLOURS:
        raise InputError(
            f"{path}: NIfTI datatype {header.datatype} is not supported",
            "convert it to an integer or float type",
        )


def _geometry(header: Header, header_path: Path, path: Path) -> Grid:
    """Ask ITK where the voxels lie; refuse what it would guess, warn where it chooses."""
    _check_pixdim(header, path)
    affine = _chosen_affine(header, path)
    grid = _itk_grid(header, header_path, path)
    if affine is not None and grid.dimension == 3:
        _check_agrees(grid, affine, path)
        _warn_forms(header, grid, path)
    return grid


def _chosen_affine(header: Header, path: Path) -> NDArray[np.float64] | None:
    """The RAS affine that ITK uses, None where the file has none (Analyze)."""
    if header.sform is not None and header.prefers_sform and not is_sheared(header.sform):
        return header.sform
    if header.qform is not None:
        return header.qform
    if header.sform is not None:
        raise InputError(
            f"{path}: the sform is sheared and there is no qform",
            "resample it onto an orthogonal grid first (a tilted gantry: dcm2niix does it)",
        )
    return None


def _check_pixdim(header: Header, path: Path) -> None:
    """ITK takes the spacing from here even where the sform places the image."""
    spacing = header.pixdim[: min(3, len(header.shape))]
    if not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise InputError(
            f"{path}: voxel spacing {tuple(map(float, spacing))}, positive numbers were expected",
            "repair the header's pixdim",
        )


def _itk_grid(header: Header, header_path: Path, path: Path) -> Grid:
    """What ITK makes of the header alone: damaged voxels and NIfTI-2 are not its business."""
    if not header.version:
        return read_grid(header_path, "NiftiImageIO", path)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "header.nii"
        small.write_bytes(as_nifti1(header))
        grid = read_grid(small, "NiftiImageIO", path)
    return replace(grid, size_xyz=header.shape[: grid.dimension])


def _check_agrees(grid: Grid, affine_ras: NDArray[np.float64], path: Path) -> None:
    gap_voxels = _gap_mm(grid, affine_ras, voxel_to_ras(grid)) / min(grid.spacing_mm)
    if not gap_voxels < FORM_TOLERANCE_VOXELS:
        raise InputError(
            f"{path}: the header's affine can't be represented by spacing and directions",
            "resample it onto an orthogonal grid first",
        )


def _warn_forms(header: Header, grid: Grid, path: Path) -> None:
    if header.qform is None or header.sform is None:
        return
    gap_mm = _gap_mm(grid, header.qform, header.sform)
    if gap_mm > FORM_TOLERANCE_VOXELS * min(grid.spacing_mm):
        used = "sform" if header.prefers_sform and not is_sheared(header.sform) else "qform"
        sheared = " (the sform is sheared)" if is_sheared(header.sform) else ""
        log.warning(
            "%s: qform and sform place the image up to %.4g mm apart%s; "
            "the %s is used, as ITK and ANTs do",
            path, gap_mm, sheared, used,
        )  # fmt: skip


def _gap_mm(grid: Grid, first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Largest distance between two placements of the grid's corner voxels."""
    corners = apply_affine(grid.lps_to_index, grid.corners_mm())
    gap = apply_affine(first, corners) - apply_affine(second, corners)
    return float(np.linalg.norm(gap, axis=-1).max())


def _read_voxels(path: Path, header: Header) -> NDArray[np.generic]:
    """Flat array in native byte order; all voxels, or an InputError."""
    _check_claim(path, header.claimed_bytes, header.offset)
    voxels = np.empty(header.claimed_bytes // header.dtype.itemsize, header.dtype)
    try:
        with open_packed(path) as file:
            file.seek(header.offset)
            missing = _fill(file, voxels.view(np.uint8).data)
            while file.read(DRAINED_AT_ONCE):  # at its end a gzip stream verifies its checksum
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or truncated ({error})", "get the file again") from None
    if missing:
        raise InputError(f"{path}: {missing} bytes of voxels are missing", "get the file again")
    return voxels.astype(header.dtype.newbyteorder("="), copy=False)


def _check_claim(path: Path, claimed: int, offset: int) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    available = size * GZIP_LIMIT if packed else size - offset
    if claimed > available:
        raise InputError(
            f"{path}: the header claims {claimed} bytes of voxels, the file has {size}",
            "the file is truncated or its header damaged; get it again",
        )


def _fill(file: BinaryIO, target: memoryview) -> int:
    """Read until `target` is full or the file ends; how many bytes are missing."""
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return len(target) - done


def _scaled(voxels: NDArray[np.generic], header: Header) -> NDArray[np.generic]:
    slope, intercept = header.rescale
    usable = np.isfinite(slope) and slope != 0 and header.colours == 1
    if not usable or (slope, intercept) == (1.0, 0.0):
        return voxels
    narrow = voxels.dtype.itemsize <= 2 or voxels.dtype == np.float32
    narrow = narrow and _fit_float32(slope, intercept)
    result = np.empty(voxels.shape, np.float32 if narrow else np.float64)
    for start in range(0, len(voxels), SCALED_AT_ONCE):  # in double, as ITK does
        part = slice(start, start + SCALED_AT_ONCE)
        result[part] = voxels[part].astype(np.float64) * slope + intercept
    return result


def _fit_float32(slope: float, intercept: float) -> bool:
    """Also times a 16-bit voxel."""
    return abs(slope) > 1e-36 and max(abs(slope), abs(intercept)) < 1e32


def _shape_image(flat: NDArray[np.generic], header: Header, grid: Grid, source: str) -> Image:
    """Flat voxels, x fastest → Image; what the further axes mean is decided here."""
    extra = header.shape[grid.dimension :]
    extra = extra[1:] if grid.dimension == 2 and extra[:1] == (1,) else extra
    if header.colours > 1 and not extra:
        array = flat.reshape(*grid.shape_zyx, header.colours)
        return Image(array, grid, header.colours, source, "rgb")
    kind: ChannelKind = "time" if len(extra) == 1 else "vector"
    if header.intent == INTENT_TENSOR and extra == (1, TENSOR_NUMBERS):
        kind = "tensor"
    if header.colours > 1 or len(extra) > 2 or (len(extra) == 2 and extra[0] != 1):
        raise InputError(
            f"{source}: {len(header.shape)} axes {header.shape}, at most x, y, z and one more "
            "(time or components) were expected",
            "split it first",
        )
    if not extra:
        return Image(flat.reshape(grid.shape_zyx), grid, source=source)
    array = np.moveaxis(flat.reshape(extra[-1], *grid.shape_zyx), 0, -1)
    if header.intent == INTENT_DISPLACEMENT:
        array = flip_vectors(array)  # RAS on disk, as ITK does
    return Image(array, grid, extra[-1], source, kind, header.time_step if kind == "time" else 1.0)

"""Files ↔ images.

Two readers: `read_image` gives the one scalar volume that registration needs and refuses the
rest with words, `read_any` keeps time, vectors and colour, for resampling.
"""

from __future__ import annotations

import gzip
import logging
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path

import numpy as np

from carl_cli.errors import InputError, OutputError
from carl_cli.geometry import Grid
from carl_cli.io.atomic import atomic_path, full_suffix
from carl_cli.io.images.dicom import is_dicom, read_dicom, read_dicom_grid
from carl_cli.io.images.general import IMAGE_IOS, check_directions, read_general, read_general_grid
from carl_cli.io.images.image import ChannelKind, Image, from_sitk, one_volume, set_grid, to_sitk
from carl_cli.io.images.mgh import SUFFIXES as MGH
from carl_cli.io.images.mgh import read_mgh, read_mgh_grid, write_mgh
from carl_cli.io.images.mif import SUFFIXES as MIF
from carl_cli.io.images.mif import read_mif, read_mif_grid, write_mif
from carl_cli.io.images.nifti import is_nifti, read_nifti, read_nifti_grid
from carl_cli.io.images.nifti_header import COLOURS, INTENT_OFFSET, INTENT_TENSOR, NIFTI1_HEADER
from carl_cli.io.sitk_bridge import cause, grid_of, save

__all__ = [
    "ChannelKind",
    "Image",
    "from_sitk",
    "grid_of",
    "one_volume",
    "read_any",
    "read_grid",
    "read_image",
    "set_grid",
    "to_sitk",
    "write_image",
]

log = logging.getLogger(__name__)
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha", *MGH, *MIF)
READERS: dict[str, Callable[[Path], Image]] = {
    **dict.fromkeys(IMAGE_IOS, read_general),
    **dict.fromkeys(MGH, read_mgh),
    **dict.fromkeys(MIF, read_mif),
}
GRID_READERS: dict[str, Callable[[Path], Grid]] = {
    **dict.fromkeys(IMAGE_IOS, read_general_grid),
    **dict.fromkeys(MGH, read_mgh_grid),
    **dict.fromkeys(MIF, read_mif_grid),
}


def read_any(path: str | Path, *, series_uid: str | None = None, strict: bool = False) -> Image:
    """Read a file or DICOM folder with everything it holds: time, vectors, colour; dtype kept.

    strict: refuse what would be resampled onto an orthogonal grid (a tilted gantry, uneven slices,
    a sheared sform). Raises InputError (one line) for what can't be read or placed in space.
    """
    path = _existing(path)
    if is_dicom(path):
        image = read_dicom(path, series_uid, strict)
    elif is_nifti(path):
        image = read_nifti(path, strict)
    else:
        image = READERS[full_suffix(path).lower()](path)
    check_directions(image.grid, path)
    _check_size(image.grid, path)
    return image


def read_grid(path: str | Path, *, series_uid: str | None = None) -> Grid:
    """The grid of an image from its header alone; of a series, that of one volume."""
    path = _existing(path)
    if is_dicom(path):
        grid = read_dicom_grid(path, series_uid)
    else:
        read = read_nifti_grid if is_nifti(path) else GRID_READERS[full_suffix(path).lower()]
        grid = read(path)
    check_directions(grid, path)
    _check_size(grid, path)
    return grid


def _check_size(grid: Grid, path: Path) -> None:
    if 0 in grid.size_xyz:
        size = " x ".join(map(str, grid.size_xyz))
        raise InputError(f"{path}: {size} voxels, an image with some was expected")


def _existing(path: str | Path) -> Path:
    """The path, if something of a known format is there."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", "check the path")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a pipe or a device, a file was expected", "save it as a file")
    if is_dicom(path) or is_nifti(path) or full_suffix(path).lower() in READERS:
        return path
    raise InputError(
        f"{path}: not a known image format",
        f"give .nii, .nii.gz, .hdr/.img, DICOM or {', '.join(READERS)}",
    )


def read_image(
    path: str | Path,
    *,
    series_uid: str | None = None,
    time_index: int | None = None,
    strict: bool = False,
    average: bool = False,
    allow_nan: bool = True,
) -> Image:
    """Read one finite, scalar 2D or 3D volume: what registration works on. dtype is kept.

    path: NIfTI (.nii, .nii.gz, .hdr/.img), NRRD, MHA/MHD, MINC, MGH, MIF, a DICOM folder,
    file or zip.
    series_uid chooses among a folder's series, time_index (from 0) among a 4D file's volumes.
    average: without time_index, the mean of a file's volumes. NaN means outside the field of view:
    such voxels get the smallest value that there is, and a warning says so (masks: not allow_nan).
    Raises InputError for several series or volumes without a choice, for colour, vectors or
    complex numbers, for infinite voxels or nothing but NaN, for a geometry that makes no sense.
    """
    image = read_any(path, series_uid=series_uid, strict=strict)
    return _usable(image, str(path), time_index, average, allow_nan)


def read_contrasts(
    path: str | Path,
    *,
    series_uid: str | None = None,
    time_index: int | None = None,
    strict: bool = False,
    average: bool = False,
) -> list[Image]:
    """The components of an image of vectors, each as `read_image` would give it; of a scalar image
    the one. Raises InputError as it does, for colour too."""
    image = read_any(path, series_uid=series_uid, strict=strict)
    vectors = image.channels > 1 and image.channel_kind == "vector"
    if vectors and time_index is not None:
        raise InputError(
            f"{path}: {image.channels} components per voxel and no volumes",
            "leave out --time-index, or write the components as a time series",
        )
    parts = [one_volume(image, k) for k in range(image.channels)] if vectors else [image]
    return [_usable(part, str(path), time_index, average, True) for part in parts]


def _usable(
    image: Image, path: str, time_index: int | None, average: bool, allow_nan: bool
) -> Image:
    averaged = average and time_index is None and image.channel_kind == "time"
    image = _mean_volume(image) if averaged else _choose_volume(image, time_index)
    if image.channels > 1:
        raise InputError(
            f"{path}: {image.channels} components per voxel, a scalar image was expected",
            "convert it to grey values first",
        )
    check_finite(image, allow_nan)
    return without_nan(image)


def _mean_volume(image: Image) -> Image:
    """A voxel that is NaN in one volume is NaN in the mean."""
    if image.channels == 1:
        return image
    log.info(
        "%s: a time series, registered by the mean of its %d volumes; --time-index chooses one",
        image.source, image.channels,
    )  # fmt: skip
    mean = image.array.mean(axis=-1, dtype=np.float64).astype(np.float32)
    return replace_fields(image, array=mean, channels=1)


def _choose_volume(image: Image, time_index: int | None) -> Image:
    if image.channel_kind != "time":
        return image
    if time_index is None and image.channels > 1:
        raise InputError(
            f"{image.source}: a time series of {image.channels} volumes, one was expected",
            f"choose one with --time-index 0 to {image.channels - 1}",
        )
    if not 0 <= (time_index or 0) < image.channels:
        raise InputError(
            f"{image.source}: no volume {time_index}, the file has {image.channels}",
            f"choose --time-index 0 to {image.channels - 1}",
        )
    return one_volume(image, time_index or 0)


def check_finite(image: Image, allow_nan: bool) -> None:
    if not np.issubdtype(image.array.dtype, np.floating):
        return
    bad = ~np.isfinite(image.array) if not allow_nan else np.isinf(image.array)
    if bad.any():
        what = "infinite" if allow_nan else "NaN or infinite"
        raise InputError(
            f"{image.source}: {np.count_nonzero(bad)} voxels are {what}, "
            "finite numbers were expected",
            "replace them by the background value first",
        )
    if np.isnan(image.array).all():
        raise InputError(f"{image.source}: every voxel is NaN, an image was expected")


def without_nan(image: Image) -> Image:
    if not np.issubdtype(image.array.dtype, np.floating):
        return image
    nan = np.isnan(image.array)
    if not nan.any():
        return image
    value = np.nanmin(image.array)
    log.warning(
        "%s: %d voxels are NaN: taken as outside the field of view (%g)",
        image.source, np.count_nonzero(nan), value,
    )  # fmt: skip
    return replace_fields(image, array=np.where(nan, value, image.array).astype(image.array.dtype))


def write_image(
    path: str | Path, image: Image, *, compress: bool = True, replace: bool = True
) -> None:
    """Write .nii(.gz), .nrrd, .mha, .mgz, .mgh or .mif(.gz); dtype kept; whole or not at all.

    replace: whether a file may stand there already. Raises OutputError for another suffix or when
    the file can't be written.
    """
    path = Path(path)
    if full_suffix(path).lower() not in WRITABLE:
        raise OutputError(f"{path}: can't write this format", f"use {', '.join(WRITABLE)}")
    with atomic_path(path, replace=replace) as temporary:
        try:
            _save(image, temporary, path, compress)
        except RuntimeError as error:
            reason = cause(error).replace(str(temporary), path.name).rstrip(": ")
            raise OutputError(f"{path}: can't be written: {reason}") from None


def _save(image: Image, temporary: Path, path: Path, compress: bool) -> None:
    if _is_nifti_colour(image, path):
        _write_rgb_nifti(temporary, image)
    elif image.channel_kind == "tensor":
        _write_tensors(temporary, image, path)
    elif path.suffix.lower() in MGH:
        write_mgh(temporary, image)
    elif full_suffix(path).lower() in MIF:
        write_mif(temporary, image)
    else:
        save(to_sitk(image), temporary, compress)


def _is_nifti_colour(image: Image, path: Path) -> bool:
    colour = image.channel_kind == "rgb" and image.channels in (3, 4)
    return colour and image.array.dtype == np.uint8 and is_nifti(path)


def _write_tensors(temporary: Path, image: Image, path: Path) -> None:
    """As ITK writes vectors, with the intent that says what they are."""
    if not full_suffix(path).lower().startswith(".nii"):
        raise OutputError(f"{path}: tensors are written as NIfTI only", "write .nii.gz")
    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder) / "tensors.nii"
        save(to_sitk(image), name)
        data = bytearray(name.read_bytes())
    struct.pack_into("<h", data, INTENT_OFFSET, INTENT_TENSOR)
    temporary.write_bytes(gzip.compress(data, 6) if path.suffix.lower() == ".gz" else data)


def _write_rgb_nifti(path: Path, image: Image) -> None:
    """Write uint8 colour as NIfTI datatype 128 or 2304, which SimpleITK has no pixel type for.

    The header is ITK's own for a grey image on the same grid, with the datatype exchanged.
    """
    grey = Image(np.zeros(image.grid.shape_zyx, np.uint8), image.grid)
    datatype = next(code for code, count in COLOURS.items() if count == image.channels)
    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder) / "grey.nii"
        save(to_sitk(grey), name)
        header = bytearray(name.read_bytes()[: NIFTI1_HEADER + 4])
    struct.pack_into("<2h", header, 70, datatype, 8 * image.channels)
    data = bytes(header) + np.ascontiguousarray(image.array).tobytes()
    path.write_bytes(gzip.compress(data, 6) if path.suffix.lower() == ".gz" else data)

"""Images in memory, and files ↔ images through SimpleITK.

An array's axes are (z, y, x) or (y, x), components last; geometry is LPS mm. Two readers:
`read_image` gives the one scalar volume that registration needs and refuses the rest with
words, `read_any` keeps time, vectors and colour, for resampling.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.errors import InputError, OutputError
from carl_cli.geometry import Grid
from carl_cli.io.atomic import atomic_path, full_suffix

log = logging.getLogger(__name__)

ChannelKind = Literal["vector", "rgb", "time"]
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")


@dataclass(frozen=True, eq=False)
class Image:
    """Voxels on a grid.

    array: (z, y, x) or (y, x); with channels > 1 one more axis, last. channel_kind says what
    that axis is; time_step is the spacing of a time axis in the file's own unit. source: the
    path, for messages; never text out of a header.
    """

    array: NDArray[np.generic]
    grid: Grid
    channels: int = 1
    source: str = ""
    channel_kind: ChannelKind = "vector"
    time_step: float = 1.0

    def __post_init__(self) -> None:
        shape = self.grid.shape_zyx + ((self.channels,) if self.channels > 1 else ())
        if self.array.shape != shape:
            raise ValueError(f"array of shape {self.array.shape}, the grid wants {shape}")


def grid_of(image: sitk.Image) -> Grid:
    """Grid of a 2D or 3D SimpleITK image (io-internal)."""
    return Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def from_sitk(image: sitk.Image, source: str = "") -> Image:
    """2D, 3D or (time last) 4D SimpleITK image → Image. Copies the voxels (io-internal)."""
    if image.GetDimension() == 4:
        return _from_time_series(image, source)
    array = sitk.GetArrayFromImage(image)
    channels = image.GetNumberOfComponentsPerPixel()
    if channels == 1 and array.ndim > image.GetDimension():
        array = array[..., 0]
    return Image(array, grid_of(image), channels, source)


def _from_time_series(image: sitk.Image, source: str) -> Image:
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{source}: a time series of vectors can't be used", "split it first")
    grid = grid_of(image[:, :, :, 0])
    array = np.moveaxis(sitk.GetArrayViewFromImage(image), 0, -1)
    volumes = array.shape[-1]
    array = np.ascontiguousarray(array if volumes > 1 else array[..., 0])
    return Image(array, grid, volumes, source, "time", float(image.GetSpacing()[3]))


def to_sitk(image: Image) -> sitk.Image:
    """Image → SimpleITK image; components become a vector image, time a fourth axis (io-internal)."""
    if image.channels > 1 and image.channel_kind == "time":
        volumes = [to_sitk(one_volume(image, t)) for t in range(image.channels)]
        joined: sitk.Image = sitk.JoinSeries(volumes, 0.0, image.time_step)
        return joined
    result = sitk.GetImageFromArray(image.array, isVector=image.channels > 1)
    set_grid(result, image.grid)
    return result


def set_grid(image: sitk.Image, grid: Grid) -> None:
    """Give a SimpleITK image the geometry of a grid of the same size (io-internal)."""
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)


def one_volume(image: Image, channel: int) -> Image:
    """One component or time point as a scalar image."""
    if image.channels == 1:
        return image
    return replace(image, array=np.ascontiguousarray(image.array[..., channel]), channels=1)


def read_any(path: str | Path, *, series_uid: str | None = None) -> Image:
    """Read a file or DICOM folder with everything it holds: time, vectors, colour; dtype kept.

    Raises InputError (one line) for what can't be read or placed in space.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", "check the path")
    try:
        return from_sitk(sitk.ReadImage(str(path)), str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: can't be read: {_last_line(error)}") from None


def read_image(
    path: str | Path, *, series_uid: str | None = None, time_index: int | None = None
) -> Image:
    """Read one finite, scalar 2D or 3D volume: what registration works on. dtype is kept.

    path: NIfTI (.nii, .nii.gz, .hdr/.img), NRRD, MHA/MHD, MINC, a DICOM folder, file or zip.
    series_uid chooses among a folder's series, time_index (from 0) among a 4D file's volumes.
    Raises InputError for several series or volumes without a choice, for colour, vectors or
    complex numbers, for NaN or infinite voxels and for a geometry that makes no sense.
    """
    image = _choose_volume(read_any(path, series_uid=series_uid), time_index)
    if image.channels > 1:
        raise InputError(
            f"{path}: {image.channels} components per voxel, a scalar image was expected",
            "convert it to grey values first",
        )
    _check_finite(image)
    return image


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


def _check_finite(image: Image) -> None:
    if not np.issubdtype(image.array.dtype, np.floating):
        return
    bad = image.array.size - int(np.count_nonzero(np.isfinite(image.array)))
    if bad:
        raise InputError(
            f"{image.source}: {bad} voxels are NaN or infinite, finite numbers were expected",
            "replace them by the background value first",
        )


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].replace("sitk::ERROR: ", "").strip()


def write_image(path: str | Path, image: Image, *, compress: bool = True) -> None:
    """Write .nii, .nii.gz, .nrrd or .mha; dtype kept; whole or not at all.

    Raises OutputError for another suffix or when the file can't be written.
    """
    path = Path(path)
    if full_suffix(path).lower() not in WRITABLE:
        raise OutputError(f"{path}: can't write this format", f"use {', '.join(WRITABLE)}")
    with atomic_path(path) as temporary:
        _write_sitk(to_sitk(image), temporary, path, compress)


def _write_sitk(image: sitk.Image, temporary: Path, path: Path, compress: bool) -> None:
    try:
        sitk.WriteImage(image, str(temporary), useCompression=compress)
    except RuntimeError as error:
        raise OutputError(f"{path}: can't be written: {_last_line(error)}") from None

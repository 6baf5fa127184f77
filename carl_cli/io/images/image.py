"""An image in memory, and SimpleITK's form of it.

An array's axes are (z, y, x) or (y, x), components last; geometry is LPS mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.sitk_bridge import grid_of

ChannelKind = Literal["vector", "rgb", "time", "tensor"]
FEW_VALUES, LIKE_THEIR_NEIGHBOURS = 512, 0.5


@dataclass(frozen=True, eq=False)
class Image:
    """Voxels on a grid.

    array: (z, y, x) or (y, x); with channels > 1 one more axis, last. channel_kind says what
    that axis is ("tensor": xx, xy, yy, xz, yz, zz along the index axes); time_step is the spacing
    of a time axis in the file's own unit. source: the path, for messages; never text out of a
    header.
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
    grid = grid_of(image)
    array = np.moveaxis(sitk.GetArrayViewFromImage(image), 0, -1)
    volumes = array.shape[-1]
    array = np.ascontiguousarray(array if volumes > 1 else array[..., 0])
    return Image(array, grid, volumes, source, "time", float(image.GetSpacing()[3]))


def to_sitk(image: Image) -> sitk.Image:
    """Image → SimpleITK image; components as a vector, time as a fourth axis (io-internal)."""
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


def joined(parts: Sequence[Image]) -> Image:
    """The image of vectors with these components, on one grid and of one type; one alone is
    itself."""
    if len(parts) == 1:
        return parts[0]
    array = np.stack([part.array for part in parts], axis=-1)
    return replace(parts[0], array=array, channels=len(parts), channel_kind="vector")


def looks_like_labels(image: Image) -> bool:
    """Integers of few values, most of them (but for zeros) like their neighbour along x."""
    array = image.array
    if array.dtype.kind not in "iub" or image.channels > 1 or array.shape[-1] < 2:
        return False
    left, right = array[..., :-1], array[..., 1:]
    pairs = (left != 0) | (right != 0)
    alike = np.count_nonzero((left == right) & pairs)
    mostly = alike > LIKE_THEIR_NEIGHBOURS * np.count_nonzero(pairs)
    return bool(mostly and len(np.unique(array)) <= FEW_VALUES)

"""Time series, for registration volume by volume."""

from __future__ import annotations

from pathlib import Path

from carl_cli.errors import InputError
from carl_cli.io.images.files import check_finite, read_any, without_nan
from carl_cli.io.images.image import Image


def read_series(path: Path) -> Image:
    """All volumes of a time series, two at least; the type of its voxels is kept.

    NaN means outside the field of view: such voxels get the smallest value that there is, and a
    warning says so. Raises InputError for one volume, for components, for infinite voxels.
    """
    image = read_any(path)
    if image.channels > 1 and image.channel_kind != "time":
        raise InputError(
            f"{path}: {image.channels} components per voxel, a time series was expected",
            "write it as NIfTI with time as the fourth axis",
        )
    if image.channels == 1:
        raise InputError(
            f"{path}: one volume, a time series of two or more was expected",
            "register two images with carl register",
        )
    check_finite(image, allow_nan=True)
    return without_nan(image)

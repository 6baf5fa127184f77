"""NRRD, MetaImage, MINC and 2D pictures through SimpleITK, with a header that is believed
only as far as the file's size and a sane geometry allow."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.images.image import Image, from_sitk
from carl_cli.io.images.text_headers import (
    TEXT_HEADERS,
    check_numbers,
    check_packed_voxels,
    read_text_header,
    says_spacing,
)
from carl_cli.io.ras import flip_grid
from carl_cli.io.sitk_bridge import GZIP_LIMIT, execute, grid_of, read_header

log = logging.getLogger(__name__)

IMAGE_IOS = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".mnc": "MINCImageIO",
    ".png": "PNGImageIO",
    ".jpg": "JPEGImageIO",
    ".jpeg": "JPEGImageIO",
    ".tif": "TIFFImageIO",
    ".tiff": "TIFFImageIO",
}
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
TEXT_NUMBER_GROWTH = 8
ORTHONORMAL_TOLERANCE = 1e-3
FARTHEST_MM = 1e9
"""Beyond it positions lose so many digits that they mean nothing."""


def read_general(path: Path) -> Image:
    """Read a file whose suffix is in IMAGE_IOS, with all its components or time points.

    Raises InputError for complex voxels, directions that are not orthonormal, a header that
    claims more than its file can hold, and whatever SimpleITK can't read.
    """
    reader = _checked_header(path)
    if path.suffix.lower() in TEXT_HEADERS:
        header = read_text_header(path)
        check_packed_voxels(header, _claimed_bytes(reader))
        if not says_spacing(header):
            log.warning("%s: no ElementSpacing: 1 mm along each axis is assumed, as in ITK", path)
    elif path.suffix.lower() in PICTURES and set(reader.GetSpacing()) == {1.0}:
        log.warning("%s: no pixel size: 1 mm along each axis is assumed, as in ITK", path)
    image = from_sitk(execute(reader, path), str(path))
    image = replace(image, grid=_in_lps(image.grid, path))
    return replace(image, channel_kind="rgb") if _is_colour(reader, path) else image


def read_general_grid(path: Path) -> Grid:
    """The grid alone; of a series, that of one volume."""
    return _in_lps(grid_of(_checked_header(path)), path)


def _in_lps(grid: Grid, path: Path) -> Grid:
    """ITK 5 hands MINC's coordinates (x to the right, y to anterior) on as if they were LPS."""
    if path.suffix.lower() != ".mnc":
        return grid
    if sitk.Version.ITKMajorVersion() != 5:
        raise InputError(
            f"{path}: how this ITK places MINC files has not been checked",
            "convert it with mnc2nii, or install a SimpleITK with ITK 5",
        )
    return flip_grid(grid)


def _checked_header(path: Path) -> sitk.ImageFileReader:
    if path.suffix.lower() in TEXT_HEADERS:
        check_numbers(read_text_header(path))
    reader = read_header(path, IMAGE_IOS[path.suffix.lower()], path)
    _check_pixels(reader, path)
    check_directions(grid_of(reader), path)
    _check_claim(path, _claimed_bytes(reader))
    return reader


def _check_pixels(reader: sitk.ImageFileReader, path: Path) -> None:
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(
            f"{path}: complex voxels, real numbers were expected",
            "take the magnitude or the phase first",
        )
    if len(reader.GetSize()) not in (2, 3, 4):
        raise InputError(f"{path}: {len(reader.GetSize())} axes, 2 to 4 were expected")


def check_directions(grid: Grid, path: Path) -> None:
    """Refuse a geometry that no rigid scanner frame has: shear, zero or non-finite numbers."""
    axes = grid.direction_matrix
    numbers = (*grid.spacing_mm, *grid.origin_mm, *grid.direction)
    within = np.isfinite(numbers).all() and np.abs(numbers).max() < FARTHEST_MM
    if not within or min(grid.spacing_mm) <= 1 / FARTHEST_MM:
        raise InputError(f"{path}: spacing {grid.spacing_mm} or origin is not usable")
    if np.abs(axes.T @ axes - np.eye(grid.dimension)).max() > ORTHONORMAL_TOLERANCE:
        raise InputError(
            f"{path}: the direction matrix is sheared or singular, orthonormal was expected",
            "resample it onto an orthogonal grid first",
        )


def _claimed_bytes(reader: sitk.ImageFileReader) -> int:
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    bits = int(match.group()) if (match := re.search(r"\d+", pixel)) else 64
    components: int = reader.GetNumberOfComponents()
    return prod(reader.GetSize()) * components * bits // 8


def _check_claim(path: Path, claimed: int) -> None:
    available, growth = path.stat().st_size, GZIP_LIMIT
    if path.suffix.lower() in TEXT_HEADERS:
        header = read_text_header(path)
        available += sum(part.stat().st_size for part in header.data_files)
        growth = GZIP_LIMIT if header.packed else 1
        growth = TEXT_NUMBER_GROWTH if header.numbers_as_text else growth
    if claimed > available * growth:
        raise InputError(
            f"{path}: the header claims {claimed} bytes of voxels, the file has {available}",
            "the file is truncated or its header damaged; get it again",
        )


def _is_colour(reader: sitk.ImageFileReader, path: Path) -> bool:
    kinds = [reader.GetMetaData(k) for k in reader.GetMetaDataKeys() if k.startswith("NRRD_kinds")]
    named = any("color" in kind.lower() for kind in kinds)
    return named or (path.suffix.lower() in PICTURES and reader.GetNumberOfComponents() > 1)

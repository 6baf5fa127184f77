"""Images of other libraries ↔ ours. What a library is not needed for is not imported."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, from_sitk, read_any, read_image

ORIGIN = {"nibabel": "nibabel", "SimpleITK": "SimpleITK", "itk": "itk"}


def as_image(given: Any) -> Image:
    """An image as ours, whatever it is: a path, an Image, an image of nibabel, SimpleITK or itk, or
    an array with its grid, `(array, grid)`; the array's axes are (z, y, x).

    Raises InputError for anything else, and as `read_image` does for a file.
    """
    if isinstance(given, Image):
        return given
    if isinstance(given, str | Path):
        return read_image(given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Grid):
        return _of_array(np.asarray(given[0]), given[1])
    library = _library(given)
    if library == "SimpleITK":
        return from_sitk(given)
    if library == "nibabel":
        return _of_nibabel(given)
    if library == "itk":
        return _of_itk(given)
    raise _unknown(given)


def to_nibabel(image: Image) -> Any:
    """A nibabel image of the same voxels; its affine is RAS, as NIfTI has it."""
    import nibabel

    if image.channels > 1 or image.grid.dimension != 3:
        raise InputError("only scalar 3D images become nibabel's", "use carl.write_image")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.grid.index_to_lps
    return nibabel.Nifti1Image(image.array.T, affine)


def _library(given: Any) -> str:
    """Whose class it is, or is made from."""
    names = (kind.__module__.partition(".")[0] for kind in type(given).__mro__)
    return next((ORIGIN[name] for name in names if name in ORIGIN), "")


def _of_array(array: np.ndarray[Any, Any], grid: Grid) -> Image:
    if array.shape != grid.shape_zyx:
        raise InputError(
            f"an array of shape {array.shape}, the grid wants {grid.shape_zyx}",
            "arrays have the axes (z, y, x), grids the sizes (x, y, z)",
        )
    return Image(array, grid)


def _of_nibabel(given: Any) -> Image:
    """Through a file: one reader decides about headers that contradict themselves."""
    import nibabel

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nii"
        nibabel.save(nibabel.Nifti1Image.from_image(given), path)
        read = read_any(path)
    return Image(read.array, read.grid, read.channels, "", read.channel_kind, read.time_step)


def _of_itk(given: Any) -> Image:
    size = tuple(int(n) for n in given.GetLargestPossibleRegion().GetSize())
    axes = range(len(size))
    direction = np.asarray(given.GetDirection(), float).ravel()
    spacing, origin = ([float(v[k]) for k in axes] for v in (given.GetSpacing(), given.GetOrigin()))
    grid = Grid(size, tuple(spacing), tuple(origin), tuple(map(float, direction)))
    return _of_array(np.asarray(given).copy(), grid)


def _unknown(given: Any) -> InputError:
    if isinstance(given, np.ndarray):
        return InputError(
            "an array alone does not say where its voxels lie",
            "give (array, grid), with a carl.Grid or the grid of another image",
        )
    return InputError(
        f"{type(given).__name__} is no image that carl knows",
        "give a path, (array, grid), or an image of carl, nibabel, SimpleITK or itk",
    )

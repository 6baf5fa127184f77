"""X5 (`.x5`, BIDS draft, as nitransforms writes it): one affine or field between RAS coordinates.

HDF5: /TransformGroup/0 with its type as attributes, Transform, and Domain (Size and Mapping, index
→ RAS mm, of the fixed grid). A matrix or displacements (x, y, z, 3) lead from fixed to moving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.ras import (
    affine_from_ras,
    affine_to_ras,
    flip_vectors,
    grid_from_ras,
    voxel_to_ras,
)
from carl_cli.io.transforms.hdf5 import check_whole
from carl_cli.transforms import AffineTransform, DisplacementField, Transform

KINDS = np.array(["space", "space", "space", "vector"], "S")


def read_x5(path: Path) -> Transform:
    """Raises InputError for damaged files, several transforms, and kinds that are neither."""
    import h5py  # late: as in hdf5.py

    check_whole(path)
    try:
        with h5py.File(path, "r") as file:
            group = file["TransformGroup"]
            if file.attrs.get("Format") != "X5" or len(group) != 1:
                raise InputError(
                    f"{path}: {len(group)} transforms of {file.attrs.get('Format')}, one of X5 was "
                    "expected",
                    "keep one transform in a file",
                )
            return _read(path, group["0"])
    except (OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error})", "get the file again") from None


def _read(path: Path, group: Any) -> Transform:
    values = _numbers(group["Transform"])
    if group.attrs["Type"] == "linear" and values.shape == (4, 4):
        return affine_from_ras(_affine(values))
    representation = group.attrs.get("Representation")
    dense = group.attrs["Type"] == "nonlinear" and values.shape[3:] == (3,) and values.size
    if not dense or representation not in ("displacements", "deformations"):
        raise InputError(
            f"{path}: {group.attrs['Type']} {representation} of X5, one affine or dense field was "
            "expected",
            "make a dense field of it",
        )
    size, mapping = values.shape[:3], _numbers(group["Domain/Mapping"])
    if "Domain/Size" in group and not np.array_equal(group["Domain/Size"], size):
        raise ValueError("its domain has another size than its field")
    grid = grid_from_ras(_affine(mapping), size)
    vectors = flip_vectors(values.transpose(2, 1, 0, 3))
    if representation == "deformations":
        vectors = vectors - grid.points_mm()
    return DisplacementField(grid, vectors.astype(np.float32))


def _numbers(item: Any) -> Array:
    if item.dtype.kind not in "fiu":
        raise ValueError("no real numbers")
    return np.asarray(item, float)


def _affine(matrix: Array) -> Array:
    if matrix.shape != (4, 4) or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise ValueError("a matrix that is no affine map")
    return matrix


def write_x5(path: Path, transform: AffineTransform | DisplacementField) -> None:
    import h5py

    affine = isinstance(transform, AffineTransform)
    with h5py.File(path, "w", driver="core", backing_store=False) as file:
        file.attrs["Format"], file.attrs["Version"] = "X5", np.uint16(1)
        group = file.create_group("TransformGroup/0")
        group.attrs["Type"] = "linear" if affine else "nonlinear"
        group.attrs["SubType"] = "affine" if affine else "densefield"
        group.attrs["Representation"] = "matrix" if affine else "displacements"
        group.attrs["ArrayLength"] = 1
        group["DimensionKinds"] = KINDS
        if isinstance(transform, AffineTransform):
            group["Transform"] = affine_to_ras(transform)
        else:
            field = flip_vectors(transform.displacement_mm).transpose(2, 1, 0, 3)
            group.create_dataset("Transform", data=field, compression=5, shuffle=True)
            group["Domain/Grid"] = np.uint8(1)
            group["Domain/Size"] = np.array(transform.grid.size_xyz)
            group["Domain/Mapping"] = voxel_to_ras(transform.grid)
            group["Domain"].attrs["Coordinates"] = "cartesian"
        file.flush()
        content = file.id.get_file_image()
    path.write_bytes(content)

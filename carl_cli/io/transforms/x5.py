"""X5 (`.x5`, BIDS draft, as nitransforms writes it): one affine or field between RAS coordinates.

HDF5: /TransformGroup/0 with its type as attributes, Transform, and Domain (Size and Mapping, index
→ RAS mm, of the fixed grid). A matrix or displacements (x, y, z, 3) lead from fixed to moving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.errors import InputError
from carl_cli.io.ras import (
    affine_from_ras,
    affine_to_ras,
    flip_vectors,
    grid_from_ras,
    voxel_to_ras,
)
from carl_cli.transforms import AffineTransform, DisplacementField, Transform

KINDS = np.array(["space", "space", "space", "vector"], "S")


def read_x5(path: Path) -> Transform:
    """Raises InputError for damaged files, several transforms, and kinds that are neither."""
    import h5py  # late: as in hdf5.py

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
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: damaged ({error})", "get the file again") from None


def _read(path: Path, group: Any) -> Transform:
    values = np.asarray(group["Transform"], float)
    if group.attrs["Type"] == "linear" and values.shape == (4, 4):
        return affine_from_ras(values)
    representation = group.attrs.get("Representation")
    dense = group.attrs["Type"] == "nonlinear" and values.ndim == 4 and values.shape[-1] == 3
    if not dense or representation not in ("displacements", "deformations"):
        raise InputError(
            f"{path}: {group.attrs['Type']} {representation} of X5, one affine or dense field was "
            "expected",
            "make a dense field of it",
        )
    size = values.shape[:3]
    grid = grid_from_ras(np.asarray(group["Domain/Mapping"], float), size)
    vectors = flip_vectors(values.transpose(2, 1, 0, 3))
    if representation == "deformations":
        vectors = vectors - grid.points_mm()
    return DisplacementField(grid, vectors.astype(np.float32))


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

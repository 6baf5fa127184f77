"""ITK's HDF5 composites (`.h5`), written and checked with h5py.

ITK's layout: /TransformGroup/N/{TransformType, TransformFixedParameters, TransformParameters},
N = 0 being the composite itself (nitransforms and Slicer need one at the top). File order = our
order of parts: the last transform in the file acts first. SimpleITK would write fields in double
precision only, uncompressed: about four times the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid
from carl_cli.io.transforms.sitk import linear_from_itk, similarity_to_sitk
from carl_cli.transforms import AffineTransform, BSplineTransform, DisplacementField, Transform
from carl_cli.transforms.linear import SimilarityTransform

if TYPE_CHECKING:
    import h5py

Precision = Literal["float", "double"]
LAYOUT = {"ITKVersion": "5.4.0", "HDFVersion": "1.12.1", "OSName": "any", "OSVersion": "any"}
"""The version whose layout this is; constant, so that files don't depend on the machine."""
DAMAGED = LookupError, ValueError, RuntimeError, TypeError, AttributeError, OSError
"""What h5py raises for numbers that can't be unpacked, or are none."""
FEW, CHUNK = 64, 2**18  # numbers: what is not worth packing, and what is packed at a time
GZIP_LEVEL = 5  # of 9, as ITK's own


def write(path: Path, parts: list[Transform], precision: Precision) -> None:
    """precision: of displacement fields; the numbers of affines and B-splines are double.

    parts: affines, fields and B-splines of one dimension. The same parts give the same bytes at
    any time, as h5py notes no times.
    """
    _write(path, [None, *parts], precision)


def write_series(path: Path, transforms: Sequence[Transform], precision: Precision) -> None:
    """One affine or field for each volume of a series, in ITK's layout of a list of transforms."""
    _write(path, transforms, precision)


def _write(path: Path, parts: Sequence[Transform | None], precision: Precision) -> None:
    """None stands for the composite of all that follow."""
    import h5py  # late: only who writes an .h5 waits for it

    dimension = next(part.dimension for part in parts if part)
    suffix = f"{precision}_{dimension}_{dimension}"
    with h5py.File(path, "w", driver="core", backing_store=False) as file:
        for name, text in LAYOUT.items():
            _write_text(file, name, text)
        for number, part in enumerate(parts):
            group = file.create_group(f"TransformGroup/{number}")
            if part is None:
                _write_text(group, "TransformType", f"CompositeTransform_{suffix}")
                continue
            name, fixed, values = _parameters(part, precision)
            _write_text(group, "TransformType", f"{name}_{suffix}")
            group["TransformFixedParameters"] = fixed
            _write_numbers(group, values)
        file.flush()
        content = file.id.get_file_image()
    path.write_bytes(content)  # HDF5 can't close a file that did not fit on the disk


def is_series(path: Path) -> bool:
    """Whether several transforms stand side by side in a sound file; a composite is one."""
    import h5py

    check_whole(path)
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        groups = file.get("TransformGroup", {})
        first = groups["0"].get("TransformType") if "0" in groups else None
        return first is not None and len(groups) > 1 and b"Composite" not in bytes(first[0])


def read_series(path: Path) -> list[Transform]:
    """Of a file that `is_series`. Raises InputError where one is neither affine nor a field."""
    import h5py

    with h5py.File(path, "r") as file:
        groups = file["TransformGroup"]
        try:
            return [_read_part(groups[str(number)]) for number in range(len(groups))]
        except DAMAGED as error:
            raise InputError(f"{path}: no list of transforms: {error}") from None
        except InputError as error:
            raise InputError(f"{path}: {error.message}", error.hint) from error


def _read_part(group: h5py.Group) -> Transform:
    """Raises ValueError and the like for numbers that are not those of the type."""
    name, _, rest = str(group["TransformType"].asstr()[0]).partition("_")
    fixed, values = (group[f"Transform{kind}Parameters"][()] for kind in ("Fixed", ""))
    if name != "DisplacementFieldTransform":
        found: Transform = linear_from_itk(name, fixed.tolist(), values.tolist())
    else:
        grid = _placed(fixed)
        found = DisplacementField(grid, values.reshape(*grid.shape_zyx, grid.dimension))
    if not rest.endswith(f"_{found.dimension}_{found.dimension}"):
        raise ValueError(f"{found.dimension} dimensions in a transform of {rest}")
    return found


def _placed(fixed: Array) -> Grid:
    """The inverse of `_placement`."""
    size, origin, spacing, direction = np.split(fixed, [3, 6, 9])
    return Grid(
        tuple(int(n) for n in size),
        tuple(spacing.tolist()),
        tuple(origin.tolist()),
        tuple(direction.tolist()),
    )


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    """ITK can't convert from h5py's UTF-8."""
    import h5py

    group.create_dataset(name, data=[text], dtype=h5py.string_dtype("ascii"))


def _write_numbers(group: h5py.Group, values: NDArray[np.floating]) -> None:
    packing: dict[str, Any] = {}
    if values.size > FEW:
        packing = {"chunks": (min(values.size, CHUNK),), "shuffle": True, "compression": GZIP_LEVEL}
    group.create_dataset("TransformParameters", data=values, **packing)


def _parameters(part: Transform, precision: Precision) -> tuple[str, Array, NDArray[np.floating]]:
    """ITK's name of the class, its fixed parameters and its parameters."""
    if isinstance(part, SimilarityTransform):
        held = similarity_to_sitk(part)
        fixed, values = map(np.array, (held.GetFixedParameters(), held.GetParameters()))
        return held.GetName(), fixed, values
    if isinstance(part, AffineTransform):
        centre = np.zeros(part.dimension)
        return "AffineTransform", centre, np.array([*part.matrix.ravel(), *part.translation])
    if isinstance(part, DisplacementField):
        values = part.displacement_mm.ravel()
        as_wide = values.astype(np.float64) if precision == "double" else values.astype(np.float32)
        return "DisplacementFieldTransform", _placement(part.grid), as_wide
    if isinstance(part, BSplineTransform):
        coefficients = np.moveaxis(part.coefficients_mm.astype(float), -1, 0).ravel()
        return "BSplineTransform", _placement(part.grid), coefficients
    raise TypeError(f"no ITK form of {type(part).__name__}")


def _placement(grid: Grid) -> Array:
    return np.array([*grid.size_xyz, *grid.origin_mm, *grid.spacing_mm, *grid.direction], float)


def check_whole(path: Path) -> None:
    """Raise InputError where numbers are missing: ITK reads a lost piece as zeros, in silence."""
    import h5py

    path.open("rb").close()  # h5py tells of no permission without the file's name
    if not h5py.is_hdf5(path):
        return  # ITK says so itself
    try:
        with h5py.File(path, "r") as file:
            _check_links(file)
            file.visititems(_check_pieces)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error})", "get the file again") from None


def _check_links(group: h5py.Group) -> None:
    """Raise ValueError for what lies in another file, which may be anything, or at two names."""
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link")
        if isinstance(item := group[name], h5py.Group):
            _check_links(item)


def _check_pieces(name: str, item: h5py.Group | h5py.Dataset) -> None:
    if not hasattr(item, "chunks"):
        return  # a group
    if item.shape is None:
        raise ValueError(f"{name} is empty")
    if item.is_virtual or item.external:
        raise ValueError(f"{name} lies in another file")
    if item.chunks is None and item.id.get_storage_size() < item.size * item.dtype.itemsize:
        raise ValueError(f"{name} has no numbers")
    if item.dtype.kind == "O":
        item[()]  # names lie in a heap, and damage there leads ITK astray
    if item.chunks is None:
        return
    starts = product(*(range(0, n, m) for n, m in zip(item.shape, item.chunks, strict=True)))
    pieces = [item.id.get_chunk_info(i) for i in range(item.id.get_num_chunks())]
    if {piece.chunk_offset for piece in pieces} != set(starts):
        raise ValueError(f"{name} has lost a piece")

"""ITK's HDF5 composites (`.h5`).

Single precision goes through itk, because SimpleITK writes double and can't compress: about
four times the size. Always one composite at the top (nitransforms and Slicer need it), file
order = our order of parts: the last transform in the file acts first.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.io.transforms.sitk import to_sitk_transform
from carl_cli.io.transforms.timeless import forget_times
from carl_cli.transforms import BSplineTransform, Transform

if TYPE_CHECKING:
    import h5py

Precision = Literal["float", "double"]


def write(path: Path, parts: list[Transform], precision: Precision) -> None:
    """float: gzip-compressed; double: uncompressed. B-splines exist in double only (in itk).

    The same parts give the same bytes at any time.
    """
    splines = any(isinstance(part, BSplineTransform) for part in parts)
    if precision == "float" and not splines:
        from carl_cli.io.transforms.itk import write_composite  # a second to load

        write_composite(path, parts)
    else:
        composite = sitk.CompositeTransform([to_sitk_transform(part) for part in parts])
        sitk.WriteTransform(composite, str(path))
    forget_times(path)


def check_whole(path: Path) -> None:
    """Raise InputError where numbers are missing: ITK reads a lost piece as zeros, in silence."""
    import h5py  # late: only who reads an .h5 waits for it

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

"""ITK's HDF5 composites (`.h5`).

Single precision goes through itk, because SimpleITK writes double and can't compress: about
four times the size. Always one composite at the top (nitransforms and Slicer need it), file
order = our order of parts: the last transform in the file acts first.
"""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from carl_cli.io.transforms.conversion import to_sitk_transform
from carl_cli.transform import Transform


def write_single(path: Path, parts: list[Transform]) -> None:
    """float32 parameters, gzip."""
    from carl_cli.io.itk_bridge import write_composite

    write_composite(path, parts)


def write_double(path: Path, parts: list[Transform]) -> None:
    """float64 parameters, uncompressed, as plain ITK writes them."""
    composite = sitk.CompositeTransform([to_sitk_transform(part) for part in parts])
    sitk.WriteTransform(composite, str(path))

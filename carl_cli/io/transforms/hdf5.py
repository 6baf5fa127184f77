"""ITK's HDF5 composites (`.h5`).

Single precision goes through itk, because SimpleITK writes double and can't compress: about
four times the size. Always one composite at the top (nitransforms and Slicer need it), file
order = our order of parts: the last transform in the file acts first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import SimpleITK as sitk

from carl_cli.io.transforms.conversion import to_sitk_transform
from carl_cli.io.transforms.timeless import forget_times
from carl_cli.transform import BSplineTransform, Transform

Precision = Literal["float", "double"]


def write(path: Path, parts: list[Transform], precision: Precision) -> None:
    """float: gzip-compressed; double: uncompressed. B-splines exist in double only (in itk).

    The same parts give the same bytes at any time.
    """
    splines = any(isinstance(part, BSplineTransform) for part in parts)
    if precision == "float" and not splines:
        from carl_cli.io.itk_bridge import write_composite  # a second to load

        write_composite(path, parts)
    else:
        composite = sitk.CompositeTransform([to_sitk_transform(part) for part in parts])
        sitk.WriteTransform(composite, str(path))
    forget_times(path)

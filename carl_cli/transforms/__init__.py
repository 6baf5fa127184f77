"""Transforms of points between image spaces: the public place to import them from.

All coordinates are LPS millimetres; a transform maps points of the fixed image to points
of the moving image. Numpy only: neither torch nor an image library is imported.
"""

from carl_cli.transforms.bspline import BSplineTransform
from carl_cli.transforms.core import (
    AffineTransform,
    CompositeTransform,
    Deformation,
    DisplacementField,
    InverseField,
    Transform,
    composed,
    from_homogeneous,
    identity,
)
from carl_cli.transforms.folds import FoldRepair, repair_folds
from carl_cli.transforms.jacobian import determinant_slabs, jacobian_determinant
from carl_cli.transforms.sampling import (
    covering_grid,
    dense,
    extend,
    from_network,
    inverse_residual,
    log_residual,
    spaced_grid,
)

__all__ = [
    "AffineTransform",
    "BSplineTransform",
    "CompositeTransform",
    "Deformation",
    "DisplacementField",
    "FoldRepair",
    "InverseField",
    "Transform",
    "composed",
    "covering_grid",
    "dense",
    "determinant_slabs",
    "extend",
    "from_homogeneous",
    "from_network",
    "identity",
    "inverse_residual",
    "jacobian_determinant",
    "log_residual",
    "repair_folds",
    "spaced_grid",
]

"""A transform as ANTs keeps it: a warp that fixed points meet first, and an affine after it."""

from __future__ import annotations

from typing import NamedTuple

from carl_cli.geometry import Grid
from carl_cli.io.transforms.programs import product
from carl_cli.io.transforms.sitk import inverse_grid
from carl_cli.preprocessing.pair import PreparedPair
from carl_cli.registration.affine import fit_linear
from carl_cli.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    InverseField,
    Transform,
    dense,
    inverse_residual,
    log_residual,
    spaced_grid,
)


class Split(NamedTuple):
    """x → affine(warp(x)), LPS mm. warp: None of a linear transform."""

    affine: AffineTransform
    warp: DisplacementField | None

    @property
    def whole(self) -> Transform:
        return self.affine if self.warp is None else CompositeTransform((self.affine, self.warp))


def split(transform: Transform, prepared: PreparedPair, grid: Grid) -> Split:
    """The affine nearest to the transform in the fixed foreground, and what it leaves, on a grid.

    The two make the transform at the voxel centres of `grid` (fixed, LPS mm).
    """
    if all(isinstance(part, AffineTransform) for part in transform.parts):
        return Split(product(transform, "an affine"), None)
    affine = fit_linear("affine", transform, prepared)
    return Split(affine, dense(affine.inverse() @ transform, grid))


def warp_inverse(warp: DisplacementField, network_spacing_mm: float) -> DisplacementField:
    """Over all that the warp reaches, since ITK's displacement is zero outside a field's buffer.

    On the network's spacing: a field has no detail below it. What is left goes to the log.
    """
    backward = InverseField(warp)
    inverse = dense(backward, spaced_grid(inverse_grid(backward), network_spacing_mm))
    log_residual(inverse_residual(warp, inverse, warp.grid), "inverse of the warp")
    return inverse

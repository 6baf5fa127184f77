"""Which way a displacement may go: each axis of the fixed image has a weight from 0 to 1.

The fixed image's own index axes count, as a phase-encoding direction is told (i, j, k of BIDS). A
displacement keeps its weighted share along each. With weights of 0 and 1 such displacements are a
subspace: sums, inverses and compositions of them stay in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from carl_cli.errors import UsageError
from carl_cli.geometry import Array, Grid
from carl_cli.model.fields import RestrictedMap, voxels_per_unit
from carl_cli.registration.alignment import Maps
from carl_cli.registration.options import StartOptions


class Freedom(NamedTuple):
    """Matrices (D, D) for displacements on the network's grid, components in array-axis order."""

    voxels: Tensor  # of displacements in voxels, at any scale
    units: Tensor  # of those in unit coordinates
    align_corners: bool

    def restricted(self, maps: Maps) -> Maps:
        first, second = (RestrictedMap(map_, self.units, self.align_corners) for map_ in maps)
        return first, second


def check_restrict(options: StartOptions, dimension: int) -> None:
    """Raise UsageError for weights of other axes, and for a transform that they don't fit."""
    if options.restrict_xyz is None:
        return
    given = f"--restrict {options.restrict} was given"
    if len(options.restrict_xyz) != dimension:
        raise UsageError(f"{given} for {dimension} axes", f"give {dimension} weights")
    if options.linear is not None:
        raise UsageError(f"{given} with --transform {options.linear}", "leave it out")


def freedom_of(
    options: StartOptions, fixed: Grid, network: Grid, align_corners: bool
) -> Freedom | None:
    """None: all may move. fixed: the grid of the fixed image, network: of its network image."""
    if options.restrict_xyz is None:
        return None
    to_mm = network.index_to_lps[:-1, :-1]
    kept = np.linalg.inv(to_mm) @ _kept(options.restrict_xyz, fixed) @ to_mm
    voxels = torch.from_numpy(kept[::-1, ::-1].copy()).float()
    per_unit = voxels_per_unit(network.shape_zyx, align_corners)
    return Freedom(voxels, voxels * per_unit / per_unit[:, None], align_corners)


def _kept(weights_xyz: tuple[float, ...], grid: Grid) -> Array:
    """(D, D): LPS displacement → the share of it that is kept."""
    axes = grid.direction_matrix
    return np.asarray(axes @ np.diag(weights_xyz) @ np.linalg.inv(axes))

"""Slices of display volumes, and the choices that figure and page share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.report.scene import Scene

FOLD_COLOUR = "#ffd400"
JACOBIAN_MAP = "RdBu_r"
MATCH_SPREAD_MAP = "viridis_r"


@dataclass(frozen=True)
class Plane:
    """Display axes (0 = to left, 1 = to posterior, 2 = to superior) of one kind of slice.

    `rows_up`: the row axis runs upwards on the screen, as in every view that shows the head.
    """

    name: str
    normal: int
    column: int
    row: int
    rows_up: bool

    def slice(self, volume: NDArray[Any], index: int) -> NDArray[Any]:
        """(rows, columns[, …]) in the order of the axes, for arrays of (z, y, x[, …])."""
        cut: NDArray[Any] = np.take(volume, index, axis=2 - self.normal)
        return cut


AXIAL = Plane("axial", normal=2, column=0, row=1, rows_up=False)
CORONAL = Plane("coronal", normal=1, column=0, row=2, rows_up=True)
SAGITTAL = Plane("sagittal", normal=0, column=1, row=2, rows_up=True)


def planes_of(scene: Scene) -> tuple[Plane, ...]:
    """Three planes, or the only one of a 2D pair."""
    return (AXIAL, CORONAL, SAGITTAL) if scene.grid.dimension == 3 else (AXIAL,)


def focus_xyz(scene: Scene) -> tuple[int, int, int]:
    """Voxel in the middle of what is bright in the fixed image: where to look first."""
    bright = scene.fixed > otsu_level(scene.fixed)
    found = np.argwhere(bright) if bright.any() else np.argwhere(np.ones_like(bright))
    z, y, x = (int(v) for v in found.mean(axis=0).round())
    return x, y, z


def otsu_level(grey: NDArray[np.uint8]) -> float:
    """Grey value that parts the histogram of 0…255 best into two (Otsu 1979)."""
    counts = np.bincount(grey.ravel(), minlength=256).astype(float)
    below = np.cumsum(counts)
    above = below[-1] - below
    mass = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = mass / below - (mass[-1] - mass) / above
        separation = np.nan_to_num(below * above * gap**2)
    return float(separation.argmax()) + 0.5


def grid_spacing_mm(scene: Scene) -> float:
    """A round spacing that gives about two dozen lines along the longest side."""
    longest = max(np.array(scene.grid.size_xyz) * scene.grid.spacing_mm)
    return round_near(float(longest / 24))


def round_near(wanted: float) -> float:
    """The nearest of … 1, 2, 5, 10, 20, 50 … by ratio."""
    decade = 10.0 ** np.floor(np.log10(wanted))
    return float(min((1, 2, 5, 10), key=lambda s: abs(np.log(s * decade / wanted))) * decade)


def spread_limit_mm(spread_mm: NDArray[np.float32]) -> float:
    """Upper end of the colour scale of the map of the match spread."""
    known = spread_mm[np.isfinite(spread_mm)]
    reach = np.percentile(known, 99) if known.size else 0.0
    return float(next((limit for limit in (2, 5, 10, 20, 50, 100) if limit >= reach), 200))


def jacobian_limit(jacobian: NDArray[np.float32]) -> float:
    """Upper end of a colour scale, symmetric in the logarithm, for the determinant."""
    positive = jacobian[np.isfinite(jacobian) & (jacobian > 0)]
    reach = np.exp(np.percentile(np.abs(np.log(positive)), 99)) if positive.size else 1.0
    return float(next((limit for limit in (1.25, 1.5, 2.0, 3.0) if limit >= reach), 4.0))

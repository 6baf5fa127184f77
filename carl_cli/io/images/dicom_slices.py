"""Where the slices of a DICOM series lie: their order, and the grid that they fill."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.images.irregular import evened, straight_grid, straightened

Vector = NDArray[np.float64]

log = logging.getLogger(__name__)

POSITION_TOLERANCE = 0.05
"""How far a slice may lie from the regular grid, in slice distances."""
SAME_ORIENTATION = 1e-3


@dataclass(frozen=True)
class Frame:
    """One plane of pixels: its file, its number there, where it lies (LPS mm), its rescale."""

    path: Path
    number: int
    position: Vector | None
    orientation: tuple[float, ...]
    spacing_rows_columns: tuple[float, ...]
    thickness: float
    rescale: tuple[float, float]


@dataclass(frozen=True)
class Arrangement:
    """Order along the slice normal, and the grid that is filled.

    odd: what is wrong with the places of the slices, "" for a regular series. along_mm: where the
    sorted slices lie if unevenly, to be made `count` even ones. affine: index → LPS of those, if
    they are tilted; both are None for a regular series.
    """

    order: NDArray[np.intp]
    grid: Grid
    count: int
    odd: str = ""
    along_mm: Vector | None = None
    affine: Vector | None = None

    def applied(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """(frames, rows, columns) in the files' order → voxels of the grid."""
        array = array[self.order]
        if self.along_mm is not None:
            array = evened(array, self.along_mm, self.count)
        return array if self.affine is None else straightened(array, self.affine, self.grid)


def arrange(path: Path, frames: Sequence[Frame], shape: tuple[int, int, int]) -> Arrangement:
    """Raises InputError for repeated and missing slices, and for those shifted irregularly."""
    first = frames[0]
    rows_columns = first.spacing_rows_columns or (1.0, 1.0)
    axes = np.reshape(first.orientation or np.eye(3)[:2], (2, 3))
    directions = np.column_stack([*axes, np.cross(*axes)])
    if np.abs(directions.T @ directions - np.eye(3)).max() > SAME_ORIENTATION:
        raise InputError(f"{path}: row and column directions are not at right angles")
    if min(rows_columns) <= 0:
        raise InputError(f"{path}: pixel spacing {rows_columns}, positive numbers were expected")
    positions = _positions(path, frames)
    _warn_unplaced(path, first)
    order = np.argsort(positions @ directions[:, 2], kind="stable")
    spacing = (*rows_columns, first.thickness)
    return _placed(path, order, positions[order], directions, spacing, shape)


def _placed(
    path: Path,
    order: NDArray[np.intp],
    positions: Vector,
    directions: Vector,
    spacing: tuple[float, ...],
    shape: tuple[int, int, int],
) -> Arrangement:
    """spacing: of rows and columns, and of slices where there is one only."""
    along = (positions - positions[0]) @ directions[:, 2]
    even = _is_even(path, along)
    median = float(np.median(np.diff(along))) if len(along) > 1 else spacing[2]
    count = len(along) if even else round(along[-1] / median) + 1
    step_mm = spacing[2] if len(along) == 1 else float(along[-1] / (count - 1))
    lateral = positions - positions[0] - along[:, None] * directions[:, 2]
    tilt = _tilt(path, lateral, along, median)
    size = (shape[2], shape[1], count)
    found = "" if even else "slices are not evenly spaced"
    origin = positions[0]
    if tilt is None:
        spacing_mm = (spacing[1], spacing[0], step_mm)
        grid = Grid(size, spacing_mm, tuple(origin.tolist()), tuple(directions.ravel().tolist()))
        return Arrangement(order, grid, count, found, None if even else along)
    affine = np.eye(4)
    affine[:3, :2] = directions[:, :2] * [spacing[1], spacing[0]]
    affine[:3, 2], affine[:3, 3] = step_mm * (directions[:, 2] + tilt), origin
    angle = float(np.degrees(np.arctan(np.linalg.norm(tilt))))
    found = " and ".join(filter(None, [found, f"the gantry was tilted by {angle:.3g}°"]))
    grid = straight_grid(size, affine)
    return Arrangement(order, grid, count, found, None if even else along, affine)


def _warn_unplaced(path: Path, first: Frame) -> None:
    known = {
        "position (0, 0, 0)": first.position is not None,
        "orientation (axial)": first.orientation,
        "pixel spacing (1 mm)": first.spacing_rows_columns,
    }
    assumed = ", ".join(name for name, there in known.items() if not there)
    if assumed:
        log.warning("%s: its header does not tell these, and they are assumed: %s", path, assumed)


def _positions(path: Path, frames: Sequence[Frame]) -> Vector:
    """(slices, 3) LPS positions of the first pixels."""
    known = [frame.position for frame in frames if frame.position is not None]
    if len(known) == len(frames):
        return np.array(known)
    if len(frames) == 1:
        return np.zeros((1, 3))
    raise InputError(
        f"{path}: {len(frames) - len(known)} of {len(frames)} slices have no position",
        "a projection or a film can't be placed in space",
    )


def _is_even(path: Path, along: Vector) -> bool:
    """Whether sorted slices are evenly spaced; refuses repeated and missing ones."""
    if len(along) == 1:
        return True
    gaps = np.diff(along)
    step = float(np.median(gaps))
    if gaps.min() <= POSITION_TOLERANCE * step:
        raise InputError(
            f"{path}: several slices at one position (time points, echoes or copies)",
            "keep one volume in the folder",
        )
    if missing := int(np.rint(gaps / step - 1).clip(0).sum()):
        raise InputError(
            f"{path}: {missing} slices are missing: distances from {gaps.min():.4g} to "
            f"{gaps.max():.4g} mm",
            "complete the series or resample it first",
        )
    regular = np.linspace(0.0, along[-1], len(along))
    return bool(np.abs(along - regular).max() <= POSITION_TOLERANCE * step)


def _tilt(path: Path, lateral: Vector, along: Vector, step: float) -> Vector | None:
    """Sideways shift per mm along the normal, the same for all slices; None if there is none."""
    shift = float(np.linalg.norm(lateral, axis=1).max())
    if shift <= POSITION_TOLERANCE * step:
        return None
    tilt = np.asarray(lateral[-1] / along[-1])
    if np.linalg.norm(lateral - along[:, None] * tilt, axis=1).max() > POSITION_TOLERANCE * step:
        raise InputError(
            f"{path}: slices are shifted sideways by up to {shift:.4g} mm, and not evenly",
            "resample the series first",
        )
    return tilt

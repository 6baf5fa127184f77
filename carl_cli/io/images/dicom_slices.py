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


def arrange(
    path: Path, frames: Sequence[Frame], shape: tuple[int, int, int]
) -> tuple[NDArray[np.intp], Grid]:
    """Order along the slice normal, and the grid that the sorted slices fill."""
    first = frames[0]
    rows_columns = first.spacing_rows_columns or (1.0, 1.0)
    axes = np.reshape(first.orientation or np.eye(3)[:2], (2, 3))
    directions = np.column_stack([*axes, np.cross(*axes)])
    if np.abs(directions.T @ directions - np.eye(3)).max() > SAME_ORIENTATION:
        raise InputError(f"{path}: row and column directions are not at right angles")
    positions = _positions(path, frames)
    _warn_unplaced(path, first)
    order = np.argsort(positions @ directions[:, 2], kind="stable")
    step_mm = _slice_distance(path, positions[order], directions[:, 2], first.thickness)
    spacing = (rows_columns[1], rows_columns[0], step_mm)
    if min(spacing) <= 0:
        raise InputError(f"{path}: pixel spacing {rows_columns}, positive numbers were expected")
    origin, direction = positions[order[0]], directions.ravel()
    size = (shape[2], shape[1], len(frames))
    return order, Grid(size, spacing, tuple(map(float, origin)), tuple(map(float, direction)))


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


def _slice_distance(path: Path, positions: Vector, normal: Vector, thickness: float) -> float:
    """Distance of sorted slices in mm; refuses repeated, missing and laterally shifted ones."""
    if len(positions) == 1:
        return thickness
    along = (positions - positions[0]) @ normal
    gaps = np.diff(along)
    step = float(np.median(gaps))
    if gaps.min() <= POSITION_TOLERANCE * step:
        raise InputError(
            f"{path}: several slices at one position (time points, echoes or copies)",
            "keep one volume in the folder",
        )
    _check_regular(path, along, step)
    lateral = positions - positions[0] - along[:, None] * normal
    _check_tilt(path, lateral, along[-1], step)
    return float(along[-1] / (len(along) - 1))


def _check_regular(path: Path, along: Vector, step: float) -> None:
    gaps = np.diff(along)
    widest = float(gaps.max())
    regular = np.linspace(0.0, along[-1], len(along))
    if np.abs(along - regular).max() <= POSITION_TOLERANCE * step:
        return
    missing = int(np.rint(gaps / step - 1).clip(0).sum())
    found = f"{missing} slices are missing" if missing else "slices are not evenly spaced"
    raise InputError(
        f"{path}: {found}: distances from {gaps.min():.4g} to {widest:.4g} mm",
        "complete the series or resample it first",
    )


def _check_tilt(path: Path, lateral: Vector, length: float, step: float) -> None:
    shift = float(np.linalg.norm(lateral, axis=1).max())
    if shift <= POSITION_TOLERANCE * step:
        return
    angle = float(np.degrees(np.arctan2(np.linalg.norm(lateral[-1]), length)))
    raise InputError(
        f"{path}: slices are shifted sideways by up to {shift:.4g} mm (gantry tilt {angle:.3g}°)",
        "correct the tilt first (dcm2niix does it)",
    )

"""The volumes that the figure and the HTML page draw, all on one small display grid.

The display grid covers the fixed image with its axes reordered and flipped to run
nearest to left, posterior, superior: axial, coronal and sagittal slices are then plain
array slices in the radiological view (patient's right on the left, head up).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image
from carl_cli.io.resample import resample, smooth
from carl_cli.transforms import Transform, jacobian_determinant

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

LEAST_OVERLAP = 0.2
"""Below this part of the fixed image the moving image is shown with centres aligned."""
LATTICE = 40
"""Nodes per axis of the coarse lattice that carries the deformation."""


@dataclass(frozen=True, eq=False)
class Scene:
    """All volumes are (z, y, x) on `grid`; a 2D pair has one slice.

    fixed, before, warped: grey values 0…255; `before` is the moving image in the fixed
    image's frame ahead of registration, with image centres aligned if `centred`.
    jacobian: determinant, 1 = no change of volume. mapped: (z, y, x, D) on a coarse
    lattice from the first to the last voxel centre of the grid; coordinate along each
    display axis, in mm from the grid's origin, of the point that T maps the node to.
    match_spread: spread of the match in mm. labels: index into `label_values`, 0 = background.
    letters: for each display axis the (first, last) end; empty in 2D.
    """

    grid: Grid
    fixed: Bytes
    before: Bytes
    warped: Bytes
    jacobian: Floats
    mapped: Floats
    letters: tuple[tuple[str, str], ...]
    overlap: float
    match_spread: Floats | None = None
    fixed_labels: Bytes | None = None
    warped_labels: Bytes | None = None
    label_values: tuple[int, ...] = ()

    @property
    def centred(self) -> bool:
        return self.overlap < LEAST_OVERLAP

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        spacing = self.grid.spacing_mm[::-1]
        return (1.0, *spacing) if len(spacing) == 2 else spacing  # type: ignore[return-value]


def build_scene(
    fixed: Image,
    moving: Image,
    warped: Image,
    transform: Transform,
    *,
    jacobian: Image | None = None,
    match_spread: Image | None = None,
    labels: tuple[Image | None, Image | None] = (None, None),
    longest: int = 128,
) -> Scene:
    """Resample everything to the display grid of `fixed`, at most `longest` voxels an axis.

    transform: fixed points to moving points, LPS mm. jacobian, match_spread: on any grid in
    the fixed frame; the Jacobian is computed when it is not given. labels: segmentations of
    fixed and of moving, the latter on the moving image's own grid.
    """
    grid = display_grid(fixed.grid, longest)
    overlap = overlap_fraction(grid, moving.grid)
    placed = moving if overlap >= LEAST_OVERLAP else _centred_on(moving, fixed.grid)
    window = grey_window(moving)
    values, (fixed_labels, warped_labels) = _labels_on(grid, labels, transform)
    return Scene(
        grid=grid,
        fixed=_grey(fixed, grid, grey_window(fixed)),
        before=_grey(placed, grid, window),
        warped=_grey(warped, grid, window),
        jacobian=_jacobian_on(grid, jacobian, transform),
        mapped=_mapped_lattice(transform, grid),
        letters=tuple(end_letters(c) for c in grid.direction_matrix.T) if _is_3d(grid) else (),
        overlap=overlap,
        match_spread=None if match_spread is None else _map_on(grid, match_spread),
        fixed_labels=fixed_labels,
        warped_labels=warped_labels,
        label_values=values,
    )


def canonical_grid(grid: Grid) -> tuple[Grid, tuple[int, ...], tuple[bool, ...]]:
    """The same voxels with index axes that run nearest to L, P(, S).

    Returns the grid, for each new axis the old axis, and whether it is flipped.
    """
    cosines = grid.direction_matrix
    dimension = grid.dimension
    order = max(
        permutations(range(dimension)),
        key=lambda p: sum(abs(cosines[k, p[k]]) for k in range(dimension)),
    )
    flipped = tuple(bool(cosines[k, order[k]] < 0) for k in range(dimension))
    signs = np.where(flipped, -1.0, 1.0)
    first = np.zeros(dimension)
    for k in range(dimension):
        first[order[k]] = (grid.size_xyz[order[k]] - 1) * flipped[k]
    turned = Grid(
        size_xyz=tuple(grid.size_xyz[k] for k in order),
        spacing_mm=tuple(grid.spacing_mm[k] for k in order),
        origin_mm=tuple(apply_affine(grid.index_to_lps, first).tolist()),
        direction=tuple((cosines[:, list(order)] * signs).ravel().tolist()),
    )
    return turned, order, flipped


def display_grid(grid: Grid, longest: int) -> Grid:
    """Canonical axes, the same extent, blocks no finer than the voxels they replace."""
    turned, _, _ = canonical_grid(grid)
    extent = np.array(turned.size_xyz) * turned.spacing_mm
    finest = np.maximum(turned.spacing_mm, extent.max() / longest)
    size = np.maximum(np.ceil(extent / finest - 1e-6), 1).astype(int)
    spacing = extent / size
    index = (spacing / turned.spacing_mm - 1) / 2  # centre of the first block
    return replace(
        turned,
        size_xyz=tuple(size.tolist()),
        spacing_mm=tuple(spacing.tolist()),
        origin_mm=tuple(apply_affine(turned.index_to_lps, index).tolist()),
    )


def end_letters(axis_lps: NDArray[np.float64]) -> tuple[str, str]:
    """Letters at the start and the end of an axis; two letters where it is oblique."""
    strongest = np.argsort(-np.abs(axis_lps), kind="stable")[:2]
    kept = [k for k in strongest if abs(axis_lps[k]) > 0.35]  # 20 degrees off
    start = "".join("RAI"[k] if axis_lps[k] > 0 else "LPS"[k] for k in kept)
    end = "".join("LPS"[k] if axis_lps[k] > 0 else "RAI"[k] for k in kept)
    return start, end


def grey_window(image: Image) -> tuple[float, float]:
    """Robust darkest and brightest value for display; never of width zero."""
    values = _scalar(image).ravel()[:: max(1, image.array.size // 1_000_000)]
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.5))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return float(low), float(high if high > low else low + 1)


def overlap_fraction(fixed: Grid, moving: Grid) -> float:
    """Part of the fixed grid's voxel centres that lie inside the moving image as scanned."""
    index = apply_affine(moving.lps_to_index, fixed.points_mm())
    inside = (index >= -0.5) & (index <= np.array(moving.size_xyz) - 0.5)
    return float(inside.all(axis=-1).mean())


def _centred_on(moving: Image, fixed: Grid) -> Image:
    origin = np.array(moving.grid.origin_mm) + fixed.centre_mm - moving.grid.centre_mm
    return replace(moving, grid=replace(moving.grid, origin_mm=tuple(origin.tolist())))


def _grey(image: Image, grid: Grid, window: tuple[float, float]) -> Bytes:
    low, high = window
    scalar = np.nan_to_num(_scalar(image), nan=low, posinf=high, neginf=low)
    source = _blurred(Image(scalar, image.grid), grid)
    shown = resample(source, grid, background=low).array.astype(np.float32)
    grey = np.clip((shown - low) * (255 / (high - low)), 0, 255)
    return _volume(grey.round().astype(np.uint8))


def _blurred(image: Image, grid: Grid) -> Image:
    """Smoothed for sampling at the grid's spacing; axes that don't shrink stay sharp."""
    _, order, _ = canonical_grid(image.grid)
    target = np.empty(grid.dimension)
    target[list(order)] = grid.spacing_mm
    shrink = np.maximum((target / image.grid.spacing_mm) ** 2 - 1, 0)
    if not shrink.any():
        return image
    return smooth(image, tuple((0.4 * np.sqrt(shrink) * image.grid.spacing_mm).tolist()))


def _jacobian_on(grid: Grid, jacobian: Image | None, transform: Transform) -> Floats:
    if jacobian is not None:
        return _map_on(grid, jacobian)
    return _volume(jacobian_determinant(transform, grid)).astype(np.float32)


def _map_on(grid: Grid, image: Image) -> Floats:
    """Values of a map of the fixed frame; nan where it has none."""
    scalar = Image(_scalar(image), image.grid)
    return _volume(resample(scalar, grid, background=np.nan).array).astype(np.float32)


def _labels_on(
    grid: Grid, labels: tuple[Image | None, Image | None], transform: Transform
) -> tuple[tuple[int, ...], list[Bytes | None]]:
    """Nearest label on the grid, counted 1… over the values found; at most 255 values."""
    found = [
        None if image is None else resample(image, grid, move, interpolator="nearest").array
        for image, move in zip(labels, (None, transform), strict=True)
    ]
    kept = [volume for volume in found if volume is not None]
    values = np.unique(np.concatenate([np.unique(v) for v in kept])) if kept else np.array([])
    values = values[values != 0][:255]
    return tuple(int(v) for v in values), [_label_index(v, values) for v in found]


def _label_index(volume: NDArray[Any] | None, values: NDArray[Any]) -> Bytes | None:
    if volume is None:
        return None
    place = np.searchsorted(values, volume)
    known = np.isin(volume, values)
    return _volume(np.where(known, place + 1, 0).astype(np.uint8))


def _mapped_lattice(transform: Transform, grid: Grid) -> Floats:
    size = np.minimum(grid.size_xyz, LATTICE)
    step = (np.array(grid.size_xyz) - 1) / np.maximum(size - 1, 1) * grid.spacing_mm
    # A flat axis has one node; any positive spacing will do for it.
    step = np.where(step > 0, step, grid.spacing_mm)
    lattice = replace(grid, size_xyz=tuple(size.tolist()), spacing_mm=tuple(step.tolist()))
    target = transform(lattice.points_mm()) - np.array(grid.origin_mm)
    return _volume((target @ grid.direction_matrix).astype(np.float32), channels=1)


def _scalar(image: Image) -> Floats:
    """Colour and vector images are shown by the mean of their channels."""
    array = image.array.mean(axis=-1) if image.channels > 1 else image.array
    return array.astype(np.float32)


def _is_3d(grid: Grid) -> bool:
    return grid.dimension == 3


def _volume(array: NDArray[Any], channels: int = 0) -> NDArray[Any]:
    """A 2D array becomes a volume of one slice."""
    return array[None] if array.ndim - channels == 2 else array

"""Figures that say how good a registration is: overlap, distances, folds, consistency, similarity.

Arrays are (z, y, x) or (y, x); distances in mm. What is undefined (a label that is nowhere, an
empty surface, a constant image) is nan, never a number that could be averaged in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carl_cli.errors import InputError
from carl_cli.io.morphology import border, distance_to

Values = NDArray[Any]
Map = Callable[[NDArray[np.float64]], NDArray[np.float64]]

WINDOW = 9  # voxels, the side of LNCC's window
BINS = 64
SMALLEST_DETERMINANT, LARGEST_DETERMINANT = 1e-9, 1e9


@dataclass(frozen=True)
class PerLabel:
    """One figure for each label."""

    values: dict[int, float]  # nan where it is undefined

    @property
    def mean(self) -> float:
        """Over the labels where it is defined; nan where it is nowhere."""
        return _quiet_mean(np.array(list(self.values.values()), float))


@dataclass(frozen=True)
class SurfaceDistance:
    """Between the borders of each label in two arrays."""

    hd95_mm: PerLabel  # the larger one of both directions' 95th percentiles
    mean_mm: PerLabel  # over both surfaces


@dataclass(frozen=True)
class Distances:
    """Summary of point distances in mm; all nan without points."""

    count: int
    mean_mm: float
    median_mm: float
    std_mm: float
    p95_mm: float
    max_mm: float


def dice(fixed: Values, warped: Values, labels: Iterable[int] | None = None) -> PerLabel:
    """2|A∩B| / (|A| + |B|) for each label; background 0 is left out.

    labels: None takes all that occur in either array. A label in one array only scores 0, in
    neither nan. Raises InputError for arrays of different shapes.
    """
    _same_shape(fixed, warped)
    sizes_fixed, sizes_warped = _sizes(fixed), _sizes(warped)
    shared = _sizes(fixed[fixed == warped])
    scores = {}
    for label in _labels(fixed, warped, labels):
        total = sizes_fixed.get(label, 0) + sizes_warped.get(label, 0)
        scores[label] = 2 * shared.get(label, 0) / total if total else np.nan
    return PerLabel(scores)


def surface_distance(
    fixed: Values,
    warped: Values,
    spacing_mm: tuple[float, ...],
    labels: Iterable[int] | None = None,
) -> SurfaceDistance:
    """Distances between the border voxels of each label (spacing x first).

    A border voxel has a face to its outside or to the end of the array; distances are between
    voxel centres, exact. nan where a label is missing in one of the arrays.
    """
    _same_shape(fixed, warped)
    hd95, mean = {}, {}
    for label in _labels(fixed, warped, labels):
        to_warped, to_fixed = _both_ways(fixed == label, warped == label, spacing_mm)
        both = np.concatenate([to_warped, to_fixed])
        defined = len(to_warped) > 0 and len(to_fixed) > 0
        ends = [np.percentile(d, 95) for d in (to_warped, to_fixed)] if defined else [np.nan]
        hd95[label] = float(max(ends))
        mean[label] = float(both.mean()) if defined else np.nan
    return SurfaceDistance(PerLabel(hd95), PerLabel(mean))


def _both_ways(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[Values, Values]:
    """Distance of each border voxel of a to the border of b, and of b to a."""
    if not a.any() or not b.any():
        return np.empty(0), np.empty(0)
    border_a, border_b = border(a), border(b)
    part = _bounds(border_a | border_b)
    border_a, border_b = border_a[part], border_b[part]
    return distance_to(border_b, spacing_mm)[border_a], distance_to(border_a, spacing_mm)[border_b]


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    hits = [
        np.flatnonzero(mask.any(axis=tuple(k for k in range(mask.ndim) if k != axis)))
        for axis in range(mask.ndim)
    ]
    return tuple(slice(int(h[0]), int(h[-1]) + 1) for h in hits)


def tre(points: ArrayLike, others: ArrayLike) -> Distances:
    """Target registration error: distances between corresponding points (N, D) in mm."""
    a, b = np.asarray(points, float), np.asarray(others, float)
    if a.shape != b.shape:
        raise InputError(
            f"{len(a)} landmarks meet {len(b)}: pairs were expected",
            "give both images the same landmarks, in the same order",
        )
    return _summary(np.linalg.norm(a - b, axis=-1).ravel())


def inverse_consistency_error(forward: Map, inverse: Map, points_mm: Values) -> Distances:
    """How far inverse(forward(x)) lies from x, for points (…, D) of the fixed image in mm."""
    points = np.asarray(points_mm, float).reshape(-1, np.shape(points_mm)[-1])
    return tre(inverse(forward(points)), points)


def _summary(distances: NDArray[np.float64]) -> Distances:
    if not len(distances):
        return Distances(0, *[float("nan")] * 5)
    return Distances(
        len(distances),
        float(distances.mean()),
        float(np.median(distances)),
        float(distances.std()),
        float(np.percentile(distances, 95)),
        float(distances.max()),
    )


def folded_percent(determinant: Values) -> float:
    """Per cent of voxels whose Jacobian determinant is 0 or less."""
    return 100 * float(np.mean(np.asarray(determinant) <= 0)) if np.size(determinant) else np.nan


def sdlogj(determinant: Values) -> float:
    """Standard deviation of the logarithm of the Jacobian determinant, clipped to [1e-9, 1e9].

    Learn2Reg's smoothness figure, without the 3 that its code adds to the determinant.
    """
    clipped = np.clip(np.asarray(determinant, float), SMALLEST_DETERMINANT, LARGEST_DETERMINANT)
    return float(np.log(clipped).std()) if clipped.size else np.nan


def ncc(fixed: Values, warped: Values, mask: NDArray[np.bool_] | None = None) -> float:
    """Pearson's correlation of intensities, in [-1, 1]; nan where one image is constant."""
    _same_shape(fixed, warped)
    a, b = (_counted(array, mask) for array in (fixed, warped))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else np.nan


def lncc(fixed: Values, warped: Values, mask: NDArray[np.bool_] | None = None) -> float:
    """Mean of the correlations inside windows of 9 voxels a side, in [-1, 1].

    Windows that lie inside the array and (with a mask) are centred in it count; those where
    one image is constant don't.
    """
    _same_shape(fixed, warped)
    side = min(WINDOW, *fixed.shape)
    a, b = (array.astype(float) - array.mean() for array in (fixed, warped))
    mean_a, mean_b = _window_mean(a, side), _window_mean(b, side)
    covariance = _window_mean(a * b, side) - mean_a * mean_b
    variances = [
        _window_mean(array * array, side) - mean**2 for array, mean in ((a, mean_a), (b, mean_b))
    ]
    floors = [1e-9 * float(np.mean(array * array)) for array in (a, b)]
    valid = (variances[0] > floors[0]) & (variances[1] > floors[1])
    if mask is not None:
        valid &= mask[tuple(slice(side // 2, side // 2 + n) for n in valid.shape)]
    product = variances[0][valid] * variances[1][valid]
    return _quiet_mean(covariance[valid] / np.sqrt(product))


def _window_mean(array: Values, side: int) -> NDArray[np.float64]:
    """Means over cubes of `side` voxels that lie inside the array, by running sums."""
    for axis in range(array.ndim):
        lines = np.moveaxis(array, axis, 0)
        sums = np.concatenate([np.zeros_like(lines[:1]), np.cumsum(lines, axis=0)])
        array = np.moveaxis((sums[side:] - sums[:-side]) / side, 0, axis)
    return array


def nmi(fixed: Values, warped: Values, mask: NDArray[np.bool_] | None = None) -> float:
    """Studholme's (H(A) + H(B)) / H(A, B) from a joint histogram of 64 by 64 bins.

    1 for independent images, 2 where one determines the other; nan where one is constant.
    """
    _same_shape(fixed, warped)
    a, b = (_counted(array, mask) for array in (fixed, warped))
    if not a.size or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    joint = np.histogram2d(a, b, BINS)[0]
    return (_entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0))) / _entropy(joint)


def _entropy(counts: NDArray[np.float64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _counted(array: Values, mask: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    flat: NDArray[np.float64] = (array if mask is None else array[mask]).astype(float).ravel()
    return flat


def _quiet_mean(values: NDArray[np.float64]) -> float:
    """Mean of what is defined; nan, without a warning, of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nanmean(values))


def _sizes(array: Values) -> dict[int, int]:
    values, counts = np.unique(array, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def _labels(fixed: Values, warped: Values, labels: Iterable[int] | None) -> list[int]:
    if labels is not None:
        return [int(label) for label in labels]
    return sorted({*_sizes(fixed), *_sizes(warped)} - {0})


def _same_shape(fixed: Values, warped: Values) -> None:
    if fixed.shape != warped.shape:
        raise InputError(
            f"arrays of shape {fixed.shape} and {warped.shape} can't be compared",
            "resample both onto one grid first",
        )

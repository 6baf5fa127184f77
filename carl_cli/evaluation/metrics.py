"""Figures that say how good a registration is: overlap, distances, folds, consistency, similarity.

Arrays are (z, y, x) or (y, x); distances in mm. What is undefined (a label that is nowhere, an
empty surface, a constant image) is nan, never a number that could be averaged in.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carl_cli.errors import InputError
from carl_cli.io.morphology import border, distance_to

Values = NDArray[Any]
Map = Callable[[NDArray[np.float64]], NDArray[np.float64]]

WINDOW = 9  # voxels, the side of LNCC's window
BINS = 64
PART_VALUES = 1 << 20
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


class Folds(NamedTuple):
    percent: float  # of voxels whose Jacobian determinant is 0 or less
    sdlogj: float  # standard deviation of the determinant's logarithm, clipped to [1e-9, 1e9]


def folds(determinants: Iterable[Values]) -> Folds:
    """Of a Jacobian determinant in parts; nan without a voxel.

    sdlogj is Learn2Reg's smoothness figure, without the 3 that its code adds to the determinant.
    """
    count = folded = 0
    mean = scatter = 0.0  # scatter: sum of squares about the mean
    for part in filter(np.size, determinants):
        logs = np.log(np.clip(part, SMALLEST_DETERMINANT, LARGEST_DETERMINANT, dtype=float))
        away, share = float(logs.mean()) - mean, part.size / (count + part.size)
        mean += away * share
        scatter += float(logs.var()) * part.size + away**2 * count * share
        count, folded = count + part.size, folded + int(np.count_nonzero(part <= 0))
    if not count:
        return Folds(np.nan, np.nan)
    return Folds(100 * folded / count, math.sqrt(scatter / count))


def ncc(fixed: Values, warped: Values, mask: NDArray[np.bool_] | None = None) -> float:
    """Pearson's correlation of intensities, in [-1, 1]; nan where one image is constant."""
    _same_shape(fixed, warped)
    a, b = (array if mask is None else array[mask] for array in (fixed, warped))
    means = [array.mean(dtype=float) for array in (a, b)]
    sums = np.zeros((2, 2))
    for part in _parts(a.shape, 1):
        centred = np.stack([(a[part] - means[0]).ravel(), (b[part] - means[1]).ravel()])
        sums += centred @ centred.T
    scale = float(np.sqrt(sums[0, 0] * sums[1, 1]))
    return float(sums[0, 1]) / scale if scale > 0 else np.nan


def lncc(fixed: Values, warped: Values, mask: NDArray[np.bool_] | None = None) -> float:
    """Mean of the correlations inside windows of 9 voxels a side, in [-1, 1].

    Windows that lie inside the array and (with a mask) are centred in it count; those where
    one image is constant don't.
    """
    _same_shape(fixed, warped)
    side = min(WINDOW, *fixed.shape)
    means = [array.mean(dtype=float) for array in (fixed, warped)]
    floors = [1e-9 * float(array.var(dtype=float)) for array in (fixed, warped)]
    total = count = 0.0
    for part in _parts(fixed.shape, side):
        pair = fixed[part] - means[0], warped[part] - means[1]
        valid, found = _window_correlations(*pair, side, floors)
        if mask is not None:
            middle = tuple(slice(side // 2, side // 2 + n) for n in valid.shape)
            valid &= mask[part][middle]
        total, count = total + found[valid].sum(), count + valid.sum()
    return float(total / count) if count else np.nan


def _window_correlations(
    a: Values, b: Values, side: int, floors: list[float]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """For each window inside the arrays whether both vary in it, and their correlation."""
    mean_a, mean_b = _window_mean(a, side), _window_mean(b, side)
    covariance = _window_mean(a * b, side) - mean_a * mean_b
    variances = [
        _window_mean(array * array, side) - mean**2 for array, mean in ((a, mean_a), (b, mean_b))
    ]
    valid = (variances[0] > floors[0]) & (variances[1] > floors[1])
    scale = np.sqrt(np.where(valid, variances[0] * variances[1], 1))
    return valid, covariance / scale


def _parts(shape: tuple[int, ...], side: int) -> Iterator[slice]:
    """Of the first axis: together they hold each window of `side` once, and each about
    PART_VALUES values, since an image in double precision may be too much."""
    windows = shape[0] - side + 1
    step = max(1, PART_VALUES * shape[0] // max(1, math.prod(shape)))
    for start in range(0, windows, step):
        yield slice(start, min(start + step, windows) + side - 1)


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
    a, b = (array if mask is None else array[mask] for array in (fixed, warped))
    if not a.size or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    ends = [(float(array.min()), float(array.max())) for array in (a, b)]
    joint = np.zeros((BINS, BINS))
    for part in _parts(a.shape, 1):
        joint += np.histogram2d(a[part].ravel(), b[part].ravel(), BINS, ends)[0]
    return (_entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0))) / _entropy(joint)


def _entropy(counts: NDArray[np.float64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


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

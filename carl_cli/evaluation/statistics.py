"""How sure a mean is, and whether two runs differ: bootstrap and signed ranks, in numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 10_000
CHUNK = 2**22  # drawn numbers in memory at once
MOST_EXACT = 400  # pairs; beyond that the normal approximation is as good as exact


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile bootstrap interval; nan where undefined."""

    count: int  # of values
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Of two runs, over the cases that both have."""

    first: float  # means
    second: float
    difference: Interval  # second minus first
    p_value: float  # Wilcoxon's, two-sided


def interval(
    values: ArrayLike, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over the defined values, its interval by resampling cases (Efron's percentiles).

    One case says nothing of the scatter: its interval is nan. The same seed gives the same
    interval.
    """
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return Interval(len(known), float(known[0]) if len(known) else np.nan, np.nan, np.nan)
    tail = 50 * (1 - level)
    low, high = np.percentile(_resampled_means(known, resamples, seed), [tail, 100 - tail])
    return Interval(len(known), float(known.mean()), float(low), float(high))


def _resampled_means(values: Floats, resamples: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(values))
    means = [
        values[random.integers(len(values), size=(min(rows, resamples - k), len(values)))].mean(1)
        for k in range(0, resamples, rows)
    ]
    return np.concatenate(means)


def paired(
    first: ArrayLike,
    second: ArrayLike,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Two runs on the same cases, in the same order; a case that one lacks (nan) is left out."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    change = interval(b - a, level, resamples, seed)
    means = [float(x.mean()) if len(x) else np.nan for x in (a, b)]
    return Difference(means[0], means[1], change, wilcoxon(b - a))


def wilcoxon(differences: ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; nan when no difference is other than zero.

    Zeros are left out, ties share their mean rank. Exact for up to 400 differences, ties
    included: the distribution over all signs is built up rank by rank, in units of half a
    rank. Beyond that the normal approximation.
    """
    known = np.asarray(differences, float)
    known = known[np.isfinite(known) & (known != 0)]
    if not len(known):
        return np.nan
    halves = _doubled_ranks(np.abs(known))
    positive = int(halves[known > 0].sum())
    if len(known) > MOST_EXACT:
        gap = abs(positive - halves.sum() / 2) / math.sqrt(float((halves.astype(float) ** 2).sum()))
        return math.erfc(2 * gap / math.sqrt(2))
    chance = _sign_distribution(halves)
    return float(min(1.0, 2 * min(chance[: positive + 1].sum(), chance[positive:].sum())))


def _doubled_ranks(sizes: Floats) -> NDArray[np.int64]:
    """Twice the mean rank of each size: whole numbers even where sizes are equal."""
    _, group, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (2 * last - counts + 1)[group.ravel()]


def _sign_distribution(halves: NDArray[np.int64]) -> Floats:
    """Probability of each sum of a random subset."""
    chance = np.zeros(int(halves.sum()) + 1)
    chance[0] = 1.0
    for rank in halves:
        moved = np.zeros_like(chance)
        moved[rank:] = chance[:-rank]
        chance = (chance + moved) / 2
    return chance


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979); nan stays nan and isn't counted."""
    order = sorted((k for k, p in enumerate(p_values) if p == p), key=lambda k: p_values[k])
    corrected, highest = [np.nan] * len(p_values), 0.0
    for place, k in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[k]))
        corrected[k] = highest
    return corrected

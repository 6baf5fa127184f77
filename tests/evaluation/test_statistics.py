"""Intervals and tests against scipy and against closed forms."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from carl_cli.evaluation.statistics import holm, interval, paired, wilcoxon

RNG = np.random.default_rng(5)


def test_interval_equals_scipy() -> None:
    """Two bootstraps of 20,000: percentiles of the mean agree to a few Monte Carlo errors."""
    values = RNG.gamma(2.0, size=40)
    found = interval(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    # Error of a 2.5 % quantile of a normal density: sqrt(p q / n) / density = 0.019 sigma.
    slack = 5 * 0.019 * math.sqrt(2) * values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(theirs.low, abs=slack)
    assert found.high == pytest.approx(theirs.high, abs=slack)
    assert found.mean == pytest.approx(values.mean())


def test_interval_of_two_cases_by_enumeration() -> None:
    """Two values give means a, (a + b) / 2, b with chances 1/4, 1/2, 1/4."""
    found = interval([1.0, 5.0], level=0.6, resamples=4000)
    assert (found.low, found.mean, found.high) == (1.0, 3.0, 5.0)
    assert interval([1.0, 5.0], level=0.4, resamples=4000).low == 3.0


def test_interval_of_little() -> None:
    one = interval([2.0, np.nan])
    assert (one.count, one.mean) == (1, 2.0)
    assert math.isnan(one.low)
    assert math.isnan(interval([]).mean)
    same = interval([3.0] * 7)
    assert (same.low, same.high) == (3.0, 3.0)


def test_a_seed_repeats_the_interval() -> None:
    values = RNG.normal(size=30)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


@pytest.mark.parametrize("count", [3, 8, 25, 60])
def test_wilcoxon_equals_scipy_exact(count: int) -> None:
    differences = RNG.normal(0.3, 1, count)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_with_ties_by_enumeration() -> None:
    """All 2^9 choices of signs, ranks shared."""
    differences = np.array([1, 1, -1, 2, 2, 2, -3, 4, 4.0])
    ranks = stats.rankdata(np.abs(differences))
    sums = np.array([np.dot(signs, ranks) for signs in product((0, 1), repeat=9)])
    seen = ranks[differences > 0].sum()
    expected = 2 * min((sums <= seen).mean(), (sums >= seen).mean())
    assert wilcoxon(differences) == pytest.approx(min(1.0, expected), rel=1e-12)
    assert wilcoxon([*differences, 0.0, np.nan]) == wilcoxon(differences)


def test_wilcoxon_of_many_is_normal() -> None:
    differences = np.round(RNG.normal(0.05, 1, 900), 1)
    expected = stats.wilcoxon(differences, method="approx", correction=False).pvalue
    assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_at_the_seam() -> None:
    """Where the approximation takes over, its error is far below what a p value is read for.

    The sum of positive ranks is a whole number: half a step of the statistic, 0.5 / sigma in
    standard deviations, times the normal density and both tails.
    """
    differences = np.random.default_rng(5).normal(0.0, 1, 400)  # whatever ran before
    approximate = stats.wilcoxon(differences, method="approx", correction=False).pvalue
    sigma = math.sqrt(400 * 401 * 801 / 24)
    assert wilcoxon(differences) == pytest.approx(approximate, abs=2 * 0.4 * 0.5 / sigma * 2)


def test_wilcoxon_of_nothing_is_nan() -> None:
    assert math.isnan(wilcoxon([]))
    assert math.isnan(wilcoxon([0.0, 0.0]))
    assert wilcoxon([5.0]) == 1.0


def test_paired_leaves_out_what_one_run_lacks() -> None:
    found = paired([1.0, 2.0, np.nan, 4.0], [2.0, np.nan, 3.0, 6.0])
    assert (found.first, found.second, found.difference.count) == (2.5, 4.0, 2)
    assert found.difference.mean == 1.5


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, np.nan, 0.03])[:2] == pytest.approx([0.03, 0.06])
    assert holm([0.01, 0.04, np.nan, 0.03])[3] == pytest.approx(0.06)
    assert math.isnan(holm([0.01, np.nan])[1])
    assert holm([0.9, 0.8]) == [1.0, 1.0]

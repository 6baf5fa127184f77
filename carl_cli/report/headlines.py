"""The few numbers that sum a case up, and which cases of a batch stand out by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from carl_cli.report.record import ErrorSummary, Metrics


@dataclass(frozen=True)
class Headline:
    """`least_scatter`: differences below it are never remarkable, in the number's unit."""

    name: str
    value: Callable[[Metrics], float | None]
    digits: int
    unit: str
    higher_is_better: bool
    least_scatter: float
    before: Callable[[Metrics], float | None] = lambda _: None  # the same without registration

    def text(self, value: float | None) -> str:
        return "–" if value is None else f"{value:.{self.digits}f}{self.unit}"


def _mean(spread: ErrorSummary | None) -> float | None:
    return None if spread is None else spread.mean


def _mean_error_before_mm(metrics: Metrics) -> float | None:
    errors = [mark.error_before_mm for mark in metrics.landmarks]
    return float(np.mean(errors)) if errors else None


HEADLINES = (
    Headline(
        "LNCC",
        lambda m: m.similarity_after.lncc,
        3,
        "",
        True,
        0.01,
        lambda m: m.similarity_before.lncc,
    ),
    Headline(
        "mean Dice", lambda m: m.mean_dice, 3, "", True, 0.01, lambda m: m.mean_of("dice_before")
    ),
    Headline(
        "mean landmark error",
        lambda m: _mean(m.tre_mm),
        2,
        " mm",
        False,
        0.2,
        _mean_error_before_mm,
    ),
    Headline("folded voxels", lambda m: m.folded_percent, 3, " %", False, 0.01),
    Headline("SD of log Jacobian", lambda m: m.sdlogj, 3, "", False, 0.01),
    Headline("inverse error", lambda m: _mean(m.inverse_consistency_mm), 2, " mm", False, 0.2),
)

OUTLIER = 3.5
"""Modified z score from which a case stands out (Iglewicz and Hoaglin 1993)."""


def badness(values: Sequence[float | None], headline: Headline) -> list[float]:
    """How far each value lies on the bad side of the median, in robust standard deviations.

    0 for unknown values and for all of fewer than four known ones.
    """
    known = np.array([np.nan if value is None else value for value in values], float)
    if np.isfinite(known).sum() < 4:
        return [0.0] * len(values)
    median = np.nanmedian(known)
    scatter = max(1.4826 * np.nanmedian(np.abs(known - median)), headline.least_scatter)
    worse = (median - known if headline.higher_is_better else known - median) / scatter
    return [float(w) for w in np.maximum(np.nan_to_num(worse), 0)]

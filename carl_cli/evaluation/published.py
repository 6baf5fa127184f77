"""Figures of a run beside those that a protocol quotes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from carl_cli.evaluation.protocol import Protocol
from carl_cli.evaluation.scores import Scores

OURS = "this run"


def by_protocol(protocol: Protocol, scores: Scores) -> Scores:
    """With Dice 0 for labels that one image of the pair lacks, if the protocol counts so."""
    if protocol.missing_label == "undefined":
        return scores
    structures = [
        s.model_copy(update={"dice_before": s.dice_before or 0.0, "dice": s.dice or 0.0})
        for s in scores.structures
    ]
    return scores.model_copy(update={"structures": structures})


def beside_published(
    protocol: Protocol, summary: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Figure by figure: ours with its interval, then every published method that tells it."""
    ours = {row["figure"]: row for row in summary}
    rows = []
    for figure in protocol.figures:
        known = ours.get(figure, {"cases": 0, "mean": math.nan, "low": math.nan, "high": math.nan})
        rows.append(_told(figure, OURS, **{k: known[k] for k in ("cases", "mean", "low", "high")}))
        rows += [
            _told(figure, method, "", told[figure], math.nan, math.nan)
            for method, told in protocol.published.items()
            if figure in told
        ]
    return rows


def _told(
    figure: str, method: str, cases: int | str, mean: float, low: float, high: float
) -> dict[str, Any]:
    return {
        "figure": figure,
        "method": method,
        "cases": cases,
        "mean": mean,
        "low": low,
        "high": high,
    }


def table_to_paste(protocol: Protocol, rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line a method, a column a figure that somebody published."""
    figures = [f for f in protocol.figures if any(f in t for t in protocol.published.values())]
    means = {(row["method"], row["figure"]): row["mean"] for row in rows}
    methods = [*protocol.published, OURS]
    lines = [
        f"| {protocol.name} | " + " | ".join(figures) + " |",
        "|---" * (1 + len(figures)) + "|",
    ]
    for method in methods:
        values = [_cell(means.get((method, figure), math.nan)) for figure in figures]
        lines.append(f"| {method} | " + " | ".join(values) + " |")
    return "\n".join([*lines, "", f"Published figures: {protocol.published_in}", ""])


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"

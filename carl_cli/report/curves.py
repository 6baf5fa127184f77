"""One figure with a line for each of several names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carl_cli.io.atomic import atomic_path

WIDTH_INCHES, HEIGHT_INCHES = 5.0, 3.5
MARKERS = "osD^v"


def save_curves(
    path: Path, rows: Sequence[Mapping[str, Any]], across: str, up: str, name: str
) -> None:
    """rows[across] → rows[up], a line for each rows[name]. Raises OutputError."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text in SVG, and the same picture gives the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "carl"}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.subplots()
        for k, label in enumerate(dict.fromkeys(row[name] for row in rows)):
            line = [(row[across], row[up]) for row in rows if row[name] == label]
            axes.plot(*zip(*line, strict=True), marker=MARKERS[k % len(MARKERS)], label=label)
        axes.set(xlabel=across.replace("_", " "), ylabel=up.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend()
        undated = {"Date": None} if path.suffix == ".svg" else None
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150, metadata=undated)

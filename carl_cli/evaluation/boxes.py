"""Box plots of a figure label by label, one box a run (Appendix A, Fig. 5 and 6)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carl_cli.errors import InputError
from carl_cli.io.atomic import atomic_path

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""Name of a run → its table of cases."""


def values_by_label(runs: Runs, figure: str = "dice") -> dict[int, dict[str, list[float]]]:
    """Label → run → its defined values over the cases, labels in order."""
    found: dict[int, dict[str, list[float]]] = {}
    for run, table in runs.items():
        for column in table[0] if table else ():
            if match := re.fullmatch(rf"{figure}\[(\d+)\]", column):
                values = [float(row[column]) for row in table]
                known = [value for value in values if not math.isnan(value)]
                found.setdefault(int(match[1]), {})[run] = known
    return dict(sorted(found.items()))


def draw_boxes(runs: Runs, path: Path, figure: str = "dice") -> None:
    """From the first to the third quartile, whiskers up to 1.5 times that, points beyond.

    Raises InputError where no table has a column of a label, OutputError.
    """
    found = values_by_label(runs, figure)
    if not found:
        raise InputError(f"no figure {figure} of single labels", "give segmentations of the cases")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    chart, panel = plt.subplots(figsize=(max(5, 1 + 0.4 * len(found) * len(runs)), 4))
    for k, run in enumerate(runs):
        values = [by_run.get(run, []) for by_run in found.values()]
        places = [j * (len(runs) + 1) + k for j in range(len(found))]
        line = {"color": f"C{k}"}
        style: dict[str, Any] = {"boxprops": line, "medianprops": line, "whiskerprops": line}
        points = {"marker": ".", "markeredgecolor": f"C{k}"}
        panel.boxplot(values, positions=places, widths=0.7, flierprops=points, **style)
        panel.plot([], [], f"C{k}", label=run)
    middles = [j * (len(runs) + 1) + (len(runs) - 1) / 2 for j in range(len(found))]
    panel.set_xticks(middles, [str(label) for label in found])
    panel.set(xlabel="label", ylabel=figure)
    panel.legend()
    with atomic_path(path) as temporary:
        chart.savefig(temporary, dpi=100, format=path.suffix[1:], bbox_inches="tight")
    plt.close(chart)

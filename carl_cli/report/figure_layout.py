"""Where the tiles of a figure lie, in inches, and the bar of its colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.report.planes import Plane, jacobian_limit
from carl_cli.report.scene import Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TILE_INCHES = 2.3


def layout(scene: Scene, planes: tuple[Plane, ...], rows: int) -> tuple[Figure, Any]:
    """Every tile at the same scale in mm; the tallest plane sets the height of a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    extent = (np.array(scene.fixed.shape) * scene.spacing_zyx)[::-1]
    widths = [float(extent[plane.column]) for plane in planes]
    height = max(float(extent[plane.row]) for plane in planes)
    inches_per_mm = TILE_INCHES / max(*widths, height)
    left, right, edge, gap = 0.4, 0.75, 0.3, 0.04
    width_inches = sum(widths) * inches_per_mm + left + right + gap * (len(planes) - 1)
    height_inches = rows * (height * inches_per_mm + gap) + 2 * edge
    figure = Figure(figsize=(width_inches, height_inches))
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        rows,
        len(planes),
        squeeze=False,
        gridspec_kw={
            "width_ratios": widths,
            "left": left / width_inches,
            "right": 1 - right / width_inches,
            "bottom": edge / height_inches,
            "top": 1 - edge / height_inches,
            "wspace": gap,
            "hspace": gap,
        },
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], facecolor="black")
        axis.spines[:].set_visible(False)
    return figure, axes


def colour_bar(figure: Figure, beside: Axes, shown: Any, scene: Scene) -> None:
    """Of the Jacobian determinant, beside the tile that shows it; none without one."""
    if shown is None:
        return
    limit, folded = jacobian_limit(scene.jacobian), bool((scene.jacobian <= 0).any())
    box = beside.get_position()
    place = figure.add_axes((box.x1 + 0.012, box.y0 + 0.1 * box.height, 0.014, 0.8 * box.height))
    bar = figure.colorbar(shown, cax=place, extend="min" if folded else "neither")
    ticks = [1 / limit, 1 / np.sqrt(limit), 1.0, np.sqrt(limit), limit]
    bar.ax.minorticks_off()
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.set_xlabel("folded" if folded else "", fontsize=6)


def ends(centres_mm: NDArray[Any]) -> tuple[float, float]:
    """Outer borders of the first and the last voxel."""
    half = (centres_mm[1] - centres_mm[0]) / 2 if centres_mm.size > 1 else 0.5
    return float(centres_mm[0] - half), float(centres_mm[-1] + half)

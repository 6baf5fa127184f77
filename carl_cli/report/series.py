"""The page of a motion correction: curves of the motion, and a film strip before and after."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Grid
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import Image, one_volume
from carl_cli.io.resample import resample
from carl_cli.report.page import assemble
from carl_cli.report.record import RunRecord, SeriesMetrics
from carl_cli.report.scene import display_grid, end_letters, grey_window
from carl_cli.report.sections import (
    footer,
    provenance,
    section,
    subtitle,
    tile,
    warning_list,
)
from carl_cli.report.tables import number
from carl_cli.transforms import Transform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAMES = 8  # of the film strip
LONGEST = 96  # voxels of a frame
CONTRAST = 0.25  # of the grey window: what a difference of black or white is
CURVES = (
    ("translation", "translation, mm"),
    ("rotation", "rotation, degrees"),
    ("framewise", "framewise\ndisplacement, mm"),
)
Rows = Sequence[Mapping[str, Any]]


def write_series_report(
    path: Path,
    series: Image,
    aligned: Image,
    start: Transform,
    rows: Rows,
    record: RunRecord,
    *,
    replace: bool = True,
) -> None:
    """Write the page. start: points of the aligned grid → points of the series, as they stand
    before the correction, LPS mm. rows: of the motion's table. Raises OutputError."""
    assert record.series is not None
    name = PurePath(record.inputs["series"].path).name
    page = assemble(
        "series.html",
        (),
        f"{name}, motion corrected",
        heading=f'{escape(name)} <span class="onto">motion corrected</span>',
        subtitle=subtitle(record),
        warnings=warning_list(record),
        tiles=_tiles(record.series),
        sections="\n".join(
            (
                section("Motion", _picture(_curves(rows), "Motion of each volume")),
                section("Film strip", _strip(series, aligned, start)),
                provenance(record),
            )
        ),
        footer=footer(),
    )
    with atomic_path(path, replace=replace) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _tiles(figures: SeriesMetrics) -> str:
    motion = figures.framewise_displacement_mm
    shown = (
        (str(figures.volumes), "volumes"),
        (f"{number(motion.mean, 2)} mm", "mean framewise displacement"),
        (f"{number(motion.max, 2)} mm", "largest framewise displacement"),
        (f"{number(figures.tsnr_before, 1)} → {number(figures.tsnr_after, 1)}", "median tSNR"),
    )
    return f'<div class="tiles">{"".join(tile(*each) for each in shown)}</div>'


def _curves(rows: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    for axes, (kind, label) in zip(figure.subplots(len(CURVES), sharex=True), CURVES, strict=True):
        for name in (name for name in rows[0] if name.startswith(kind)):
            axis = name.split("_")[1] if kind != "framewise" else None
            axes.plot([row["volume"] for row in rows], [row[name] for row in rows], label=axis)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if kind != "framewise":
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    axes.set_xlabel("volume")
    return figure


def _strip(series: Image, aligned: Image, start: Transform) -> str:
    """Middle slices of some volumes, and what differs from their mean before and after."""
    from matplotlib.figure import Figure

    grid = display_grid(aligned.grid, LONGEST)
    chosen = np.unique(np.linspace(0, series.channels - 1, FRAMES).round().astype(int))
    films = _film(series, chosen, grid, start), _film(aligned, chosen, grid, None)
    low, high = grey_window(one_volume(series, 0))
    reach = CONTRAST * (high - low)
    figure = Figure(figsize=(1.3 * len(chosen), 4.2), layout="constrained")
    rows = figure.subplots(3, len(chosen), squeeze=False)
    gaps = (film - film.mean(axis=0) for film in films)
    drawn = ((films[0], low, high), *((gap, -reach, reach) for gap in gaps))
    for axes, (film, black, white) in zip(rows, drawn, strict=True):
        for ax, frame in zip(axes, film, strict=True):
            ax.imshow(frame, cmap="gray", vmin=black, vmax=white, aspect=_aspect(grid))
            ax.set(xticks=[], yticks=[])
    for ax, volume in zip(rows[0], chosen, strict=True):
        ax.set_title(f"volume {volume}", fontsize=7)
    names = ("as scanned", "minus mean, before", "minus mean, after")
    for ax, label in zip(rows[:, 0], names, strict=True):
        ax.set_ylabel(label, fontsize=7)
    return _picture(figure, "Middle slices of some volumes") + _caption(grid)


def _caption(grid: Grid) -> str:
    left, right = end_letters(grid.direction_matrix[:, 0])
    where = f"Left edge {left}, right edge {right}."
    return f'<p class="quiet">{where} Mid-grey: no difference.</p>'


def _film(
    series: Image, chosen: NDArray[Any], grid: Grid, transform: Transform | None
) -> NDArray[np.float32]:
    """(frames, rows, columns)."""
    frames = []
    for volume in (one_volume(series, int(k)) for k in chosen):
        low = float(volume.array.min())
        shown = resample(volume, grid, transform, background=low, dtype=np.float32).array
        frames.append(shown[len(shown) // 2])
    return np.stack(frames)


def _aspect(grid: Grid) -> float:
    return grid.spacing_mm[1] / grid.spacing_mm[0]


def _picture(figure: Figure, words: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img class="wide" alt="{escape(words)}" src="data:image/png;base64,{data}">'

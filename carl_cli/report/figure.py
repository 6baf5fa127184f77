"""One picture of a registration, for papers, logs and README files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import UsageError
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import Image
from carl_cli.report.figure_layout import colour_bar, ends, layout
from carl_cli.report.planes import (
    FOLD_COLOUR,
    JACOBIAN_MAP,
    Plane,
    focus_xyz,
    grid_spacing_mm,
    jacobian_limit,
    otsu_level,
    planes_of,
)
from carl_cli.report.scene import Scene, build_scene
from carl_cli.transforms import Transform

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
FIXED_COLOUR = "#ffb000"
WARPED_COLOUR = "#35b8ff"
GRID_COLOUR = "#57d7a4"


@dataclass(frozen=True)
class _Tile:
    """One slice of the scene on one pair of axes; coordinates are mm from the grid's origin."""

    axes: Axes
    scene: Scene
    plane: Plane
    index: int

    def mm(self, axis: int) -> NDArray[Any]:
        """Voxel centres along a display axis."""
        count = self.scene.fixed.shape[2 - axis]
        return np.arange(count) * self.scene.spacing_zyx[2 - axis]

    def cut(self, volume: NDArray[Any]) -> NDArray[Any]:
        return self.plane.slice(volume, self.index)

    def image(self, volume: NDArray[Any], **style: Any) -> Any:
        """Draw the slice with its true proportions, the right way up."""
        left, right = ends(self.mm(self.plane.column))
        low, high = ends(self.mm(self.plane.row))
        extent = (left, right, low, high) if self.plane.rows_up else (left, right, high, low)
        shown = self.cut(volume)
        return self.axes.imshow(
            shown, extent=extent, origin="lower" if self.plane.rows_up else "upper", **style
        )

    def contour(self, values: NDArray[Any], levels: Any, **style: Any) -> None:
        """Level lines of a slice that spans the same field of view, of any resolution."""
        if min(values.shape) < 2:
            return
        rows, columns = self.mm(self.plane.row), self.mm(self.plane.column)
        x = np.linspace(columns[0], columns[-1], values.shape[1])
        y = np.linspace(rows[0], rows[-1], values.shape[0])
        inside = [level for level in levels if values.min() < level < values.max()]
        if inside:
            self.axes.contour(x, y, values, levels=inside, **style)


def save_figure(
    path: str | Path,
    fixed: Image,
    moving: Image,
    warped: Image,
    transform: Transform,
    *,
    jacobian: Image | None = None,
    labels: tuple[Image | None, Image | None] = (None, None),
    replace: bool = True,
) -> None:
    """Write a .png, .svg or .pdf: each view of the pair in three planes.

    warped: moving on the fixed grid. transform: fixed to moving points, LPS mm. jacobian: on
    a grid in the fixed frame, computed when missing. labels: segmentations of fixed and of
    moving, each in its own frame. Raises UsageError for another suffix, OutputError when the
    file can't be written.
    """
    check_figure_path(path)
    scene = build_scene(fixed, moving, warped, transform, jacobian=jacobian, labels=labels)
    save_scene_figure(path, scene, replace=replace)


def check_figure_path(path: str | Path) -> None:
    if Path(path).suffix.lower() not in FIGURE_SUFFIXES:
        raise UsageError(
            f"a figure can't be written as {Path(path).name}",
            f"use one of {', '.join(FIGURE_SUFFIXES)}",
        )


def save_scene_figure(path: str | Path, scene: Scene, *, replace: bool = True) -> None:
    """The figure of a scene that is already built."""
    _save(Path(path), lambda: _draw(scene), dpi=130, points=8, replace=replace)


def _save(
    path: Path, draw: Callable[[], Figure], dpi: int, points: float, replace: bool = True
) -> None:
    """Text stays text in SVG, and the same picture gives the same bytes. points: its size."""
    from matplotlib import rc_context

    stamps = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "carl", "font.size": points}):
        figure = draw()
        with atomic_path(path, replace=replace) as temporary:
            figure.savefig(temporary, dpi=dpi, metadata=stamps.get(path.suffix.lower(), {}))


def _draw(scene: Scene) -> Figure:
    rows = _rows(scene)
    planes = planes_of(scene)
    figure, axes = layout(scene, planes, len(rows))
    focus = focus_xyz(scene)
    for row, (title, draw) in enumerate(rows):
        for column, plane in enumerate(planes):
            tile = _Tile(axes[row, column], scene, plane, focus[plane.normal])
            shown = draw(tile)
            _letters(tile)
            if row == 0:
                tile.axes.set_title(plane.name, fontsize=9)
        axes[row, 0].set_ylabel(title, fontsize=9)
        colour_bar(figure, axes[row, -1], shown, scene)
    return figure


def _rows(scene: Scene) -> list[tuple[str, Callable[[_Tile], Any]]]:
    outline = "" if scene.fixed_labels is not None else "\nand outline of fixed"
    before = "moving, centres aligned" if scene.centred else "moving"
    return [
        ("fixed", lambda tile: _anatomy(tile, scene.fixed)),
        (before + outline, lambda tile: _outlined(tile, scene.before)),
        ("warped" + outline, lambda tile: _outlined(tile, scene.warped)),
        ("difference before", lambda tile: _difference(tile, scene.before)),
        ("difference after", lambda tile: _difference(tile, scene.warped)),
        (f"grid of {grid_spacing_mm(scene):g} mm", _deformation_grid),
        ("Jacobian determinant", _jacobian),
    ]


def _anatomy(tile: _Tile, volume: NDArray[np.uint8]) -> None:
    tile.image(volume, cmap="gray", vmin=0, vmax=255)
    if tile.scene.fixed_labels is not None:
        _label_lines(tile, tile.scene.fixed_labels, FIXED_COLOUR)


def _outlined(tile: _Tile, volume: NDArray[np.uint8]) -> None:
    """With segmentations their contours, without them the outline of the fixed image."""
    scene = tile.scene
    _anatomy(tile, volume)
    if scene.fixed_labels is None:
        level = [otsu_level(scene.fixed)]
        tile.contour(tile.cut(scene.fixed), level, colors=FIXED_COLOUR, linewidths=0.7)
    if scene.warped_labels is not None and volume is scene.warped:
        _label_lines(tile, scene.warped_labels, WARPED_COLOUR)


def _label_lines(tile: _Tile, labels: NDArray[np.uint8], colour: str) -> None:
    shown = tile.cut(labels)
    for value in np.unique(shown[shown > 0]):
        tile.contour((shown == value).astype(float), [0.5], colors=colour, linewidths=0.6)


def _difference(tile: _Tile, volume: NDArray[np.uint8]) -> None:
    """Fixed minus the other: mid-grey where they agree."""
    signed = tile.scene.fixed.astype(np.int16) - volume
    tile.image(signed, cmap="gray", vmin=-255, vmax=255)


def _deformation_grid(tile: _Tile) -> None:
    """Lines of a regular grid in the moving image, seen in the fixed image's frame."""
    scene, plane = tile.scene, tile.plane
    tile.image(scene.fixed // 3, cmap="gray", vmin=0, vmax=255)
    nodes = scene.mapped.shape[2 - plane.normal]
    last = scene.fixed.shape[2 - plane.normal] - 1
    node = round(tile.index * (nodes - 1) / last) if last else 0
    mapped, step = plane.slice(scene.mapped, node), grid_spacing_mm(scene)
    for axis in (plane.column, plane.row):
        values = mapped[..., axis]
        levels = np.arange(np.ceil(values.min() / step), np.floor(values.max() / step) + 1) * step
        tile.contour(values, levels, colors=GRID_COLOUR, linewidths=0.5)


def _jacobian(tile: _Tile) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    limit = jacobian_limit(tile.scene.jacobian)
    colours = colormaps[JACOBIAN_MAP].with_extremes(under=FOLD_COLOUR, bad="black")
    # A logarithmic scale: halving and doubling a volume are equally far from 1.
    norm = LogNorm(1 / limit, limit)
    # A little inside: resampled, the very end of the scale would pass for a fold.
    values = np.clip(tile.scene.jacobian, 1.001 / limit, limit)
    folded = tile.scene.jacobian <= 0
    return tile.image(np.where(folded, 1e-9, values), cmap=colours, norm=norm)


def _letters(tile: _Tile) -> None:
    if not tile.scene.letters:
        return
    across, along = tile.scene.letters[tile.plane.column], tile.scene.letters[tile.plane.row]
    bottom, top = along if tile.plane.rows_up else along[::-1]
    places = {across[0]: (0.03, 0.5), across[1]: (0.97, 0.5), bottom: (0.5, 0.03), top: (0.5, 0.97)}
    for letter, (x, y) in places.items():
        tile.axes.text(
            *(x, y, letter),
            transform=tile.axes.transAxes,
            color="white",
            fontsize=8,
            fontweight="bold",
            bbox={"facecolor": "black", "alpha": 0.4, "edgecolor": "none", "pad": 0.6},
            ha={0.03: "left", 0.97: "right"}.get(x, "center"),
            va={0.03: "bottom", 0.97: "top"}.get(y, "center"),
        )


WIDTH_INCHES, HEIGHT_INCHES = 5.0, 3.5
MARKERS = "osD^v"


def save_curves(
    path: Path, rows: Sequence[Mapping[str, Any]], across: str, up: str, name: str
) -> None:
    """rows[across] → rows[up], a line for each rows[name]. Raises OutputError."""
    from matplotlib.figure import Figure

    def drawn() -> Figure:
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.subplots()
        for k, label in enumerate(dict.fromkeys(row[name] for row in rows)):
            line = [(row[across], row[up]) for row in rows if row[name] == label]
            axes.plot(*zip(*line, strict=True), marker=MARKERS[k % len(MARKERS)], label=label)
        axes.set(xlabel=across.replace("_", " "), ylabel=up.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend()
        return figure

    _save(path, drawn, dpi=150, points=10)

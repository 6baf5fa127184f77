"""Where the anatomy is: a box found by intensity, on a coarse grid along the LPS axes.

The box is made to move smoothly with the content: voxels count by a soft weight, and the
sides are quantiles of the weight along each axis, interpolated inside the coarse voxels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.io.morphology import dilated, large_components
from carl_cli.preprocessing.grids import Box, aligned, field_of_view, sample_fading
from carl_cli.preprocessing.lowpass import low_pass

COARSE_VOXELS = 128  # along the longest side of the field of view
COARSE_WIDTH = 1.5  # of the low-pass, in coarse voxels: their phase must not show in the box
TAIL = 0.005  # of the weight beyond each side of the box: tips that a margin holds
COMPONENT = 0.1  # of the largest component's size: smaller ones are noise or a table's parts


def coarse(image: Image) -> Image:
    """The image on a coarse isotropic grid along the LPS axes that covers its field of view."""
    box = field_of_view(image.grid)
    extent = box[1] - box[0]
    spacing = max(extent.max() / COARSE_VOXELS, min(image.grid.spacing_mm))
    size = tuple(int(n) for n in np.maximum(1, np.ceil(extent / spacing - 1e-6)))
    grid = aligned(size, spacing, box.mean(axis=0))
    width = COARSE_WIDTH * spacing
    narrow = low_pass(image, (width,) * grid.dimension, halve_from=2.0)
    return sample_fading(narrow, grid, background=float(image.array.min()))


def foreground_weight(image: Image) -> Image:
    """Weight in [0, 1] of each voxel of the coarse grid, 1 well inside the anatomy.

    Otsu's threshold separates two classes. Connected parts above half-way between the mean of
    the darker one and the threshold are anatomy if they are large; the weight rises from that
    mean to the threshold, so that voxels partly filled count partly, and one voxel around them.
    Without any contrast all of the field of view counts.
    """
    low = coarse(image)
    if low.array.max() <= low.array.min():
        return replace(low, array=np.ones_like(low.array))
    threshold, background = otsu(low.array)
    half_way = (threshold + background) / 2
    values: NDArray[Any] = low.array
    weight = np.clip((values - background) / (threshold - background), 0, 1)
    weight *= dilated(large_components(values > half_way, COMPONENT))
    return replace(low, array=weight.astype(np.float32))


def otsu(values: NDArray[Any], bins: int = 256) -> tuple[float, float]:
    """Threshold of greatest between-class variance, and the mean of the class below it.

    The brightest percent counts as its lower bound, so that a few very bright voxels don't
    pull the threshold up.
    """
    top = np.percentile(values, 99)
    if top <= values.min():
        top = values.max()
    counts, edges = np.histogram(np.minimum(values, top), bins)
    middle = (edges[:-1] + edges[1:]) / 2
    below, mass = np.cumsum(counts)[:-1], np.cumsum(counts * middle)[:-1]
    total, whole = counts.sum(), (counts * middle).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (whole * below - mass * total) ** 2 / (below * (total - below))
    best = int(np.nanargmax(between))
    return float(edges[best + 1]), float(mass[best] / below[best])


def box_of(weight: Image) -> Box:
    """Box that holds all of the weight but TAIL beyond each of its sides."""
    sides = [_quantiles(weight, axis) for axis in range(weight.grid.dimension)]
    return np.array(sides).T


def _quantiles(weight: Image, axis_xyz: int) -> tuple[float, float]:
    axis = weight.array.ndim - 1 - axis_xyz
    others = tuple(k for k in range(weight.array.ndim) if k != axis)
    profile = weight.array.sum(axis=others, dtype=float)
    mass = np.concatenate([[0.0], np.cumsum(profile)]) / profile.sum()
    start = weight.grid.origin_mm[axis_xyz] - weight.grid.spacing_mm[axis_xyz] / 2
    edges = start + weight.grid.spacing_mm[axis_xyz] * np.arange(len(mass))
    return _crossing(mass, edges, TAIL), _crossing(mass, edges, 1 - TAIL)


def _crossing(mass: NDArray[np.float64], edges: NDArray[Any], level: float) -> float:
    """Where the cumulative mass reaches a level, linear inside a coarse voxel."""
    k = int(np.searchsorted(mass, level)) - 1
    return float(edges[k] + (edges[k + 1] - edges[k]) * (level - mass[k]) / (mass[k + 1] - mass[k]))


def centroid_mm(weight: Image) -> NDArray[np.float64]:
    """(D,) LPS centre of mass of the weight."""
    points = weight.grid.points_mm().reshape(-1, weight.grid.dimension)
    mass = weight.array.ravel().astype(float)
    centre: NDArray[np.float64] = mass @ points / mass.sum()
    return centre


def with_margin(box: Box, margin: float, grid: Grid) -> Box:
    """The box grown by a part of its extent on each side, but not beyond the field of view."""
    grow = margin * (box[1] - box[0])
    view = field_of_view(grid)
    return np.stack([np.maximum(box[0] - grow, view[0]), np.minimum(box[1] + grow, view[1])])

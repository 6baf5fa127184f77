"""Pairs of DRIVE vessel maps: a map, and the same map after an elastic warp (Sec. 6.1).

Shapes: B pairs, images (B, 1, y, x) with vessels 1 on ground 0. Lengths in pixels of the
original maps, of which `reduction` × `reduction` are averaged into one pixel for a network.
Three data sets differ in what is done to the warped image beside the elastic warp:

  baseline      nothing
  shift         200 pixels along y
  scale shift   the same, and shrunk to 80 % about the middle of the canvas

The warps and the canvas follow the authors' script: two random fields of cubic splines on
coarse points (standard deviation 25 pixels on 3 × 3 points, 12 on 6 × 6), and empty rows
that hold the shift. Columns and empty rows are trimmed so that each side divides by 192.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

CANVAS_YX = (768, 576)
ROWS_TRIMMED = 8  # at each end: no vessel reaches there but strays of one map
SHIFT_ROWS = 200
VESSEL = 0.2  # share of a pixel from which on it counts, as in the authors' script
WARPS = ((25.0, 3), (12.0, 6))  # standard deviation, points along each side


@dataclass(frozen=True)
class VesselSet:
    shift: int = 0
    scale: float = 1.0


SETS = {
    "baseline": VesselSet(),
    "shift": VesselSet(SHIFT_ROWS),
    "scale shift": VesselSet(SHIFT_ROWS, 0.8),
}


def read_maps(folder: Path, numbers: range) -> Tensor:
    """(2 B, 1, 568, 576) vessel maps with these DRIVE numbers, then the same upside down."""
    maps = [matplotlib.image.imread(folder / f"{n:02d}_manual1.gif") for n in numbers]
    grey = np.stack([m if m.ndim == 2 else m[..., 0] for m in maps]) > 0
    rows = torch.from_numpy(grey[:, None, ROWS_TRIMMED:-ROWS_TRIMMED]).float()
    missing = CANVAS_YX[1] - rows.shape[-1]
    maps_B1yx = pad(rows, [missing // 2, missing - missing // 2])
    return torch.cat([maps_B1yx, maps_B1yx.flip(2)])


def make_pairs(
    maps: Tensor, kind: VesselSet, warps: int, reduction: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Fixed (warped) and moving (original) images, `warps` pairs per map, reduced."""
    generator = torch.Generator().manual_seed(seed)
    missing = CANVAS_YX[0] - maps.shape[-2]
    moving = pad(maps, [0, 0, 0, missing])
    before = pad(maps, [0, 0, kind.shift, missing - kind.shift])
    fixed = [_warped(image[None], kind.scale, generator) for _ in range(warps) for image in before]
    return (
        avg_pool2d(torch.cat(fixed), reduction),
        avg_pool2d(moving, reduction).repeat(warps, 1, 1, 1),
    )


def _warped(image: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """One image after the two random warps, the second shrinking as well."""
    first, second = (_random_field(generator, *warp) for warp in WARPS)
    return _moved(_moved(image, first, 1.0), second, scale)


def _random_field(generator: torch.Generator, sigma: float, points: int) -> Tensor:
    """(1, 2, *CANVAS_YX) displacement in pixels."""
    coarse = sigma * torch.randn(1, 2, points, points, generator=generator)
    return interpolate(coarse, CANVAS_YX, mode="bicubic", align_corners=True)


def _moved(image: Tensor, displacement: Tensor, scale: float) -> Tensor:
    """image at c + (x - c) / scale + displacement(x); ground outside of it."""
    sizes = torch.tensor(CANVAS_YX).view(1, 2, 1, 1)
    axes = [(2 * torch.arange(n) + 1) / n - 1 for n in CANVAS_YX]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    places = grid / scale + 2 * displacement / sizes
    return grid_sample(image, places.flip(1).movedim(1, -1), align_corners=False)


def dice(fixed: Tensor, warped: Tensor) -> Tensor:
    """(B,) Dice of the vessels, both thresholded at VESSEL; nan where neither has any."""
    a, b = (x.flatten(1) > VESSEL for x in (fixed, warped))
    return 2 * (a & b).sum(1) / (a.sum(1) + b.sum(1))

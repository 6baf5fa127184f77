"""Grey slices side by side as one small JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from carl_cli.report.scene import Scene

THUMBNAIL_PIXELS = 110  # of the longer side of a slice


def square_pixels(
    tile: NDArray[np.int16], spacing_mm: Sequence[float], pixels: int = THUMBNAIL_PIXELS
) -> NDArray[np.int16]:
    """Nearest pixels, so that a millimetre is as wide as it is high. spacing_mm: rows, columns."""
    extent = np.array(tile.shape) * spacing_mm
    counts = np.maximum(np.rint(pixels * extent / extent.max()), 1).astype(int)
    rows, columns = (
        (np.arange(count) + 0.5) * size // count
        for count, size in zip(counts, tile.shape, strict=True)
    )
    picked: NDArray[np.int16] = tile[np.ix_(rows.astype(int), columns.astype(int))]
    return picked


def strip(tiles: Sequence[NDArray[np.int16]]) -> bytes:
    """Tiles of 0…255, the lower ones black below their end."""
    from matplotlib.image import imsave

    height = max(len(tile) for tile in tiles)
    level = [np.pad(tile, ((0, height - len(tile)), (0, 0))) for tile in tiles]
    stream = io.BytesIO()
    joined = np.concatenate(level, axis=1).astype(np.uint8)
    imsave(stream, joined, cmap="gray", vmin=0, vmax=255, format="jpg", pil_kwargs={"quality": 80})
    return stream.getvalue()


def planes_of_fixed(scene: Scene) -> bytes:
    """The fixed image in each of its planes, where it is bright, head up."""
    from carl_cli.report.planes import focus_xyz, planes_of

    focus = focus_xyz(scene)
    tiles = []
    for plane in planes_of(scene):
        tile = plane.slice(scene.fixed, focus[plane.normal]).astype(np.int16)
        spacing = [scene.spacing_zyx[2 - axis] for axis in (plane.row, plane.column)]
        tiles.append(square_pixels(tile[::-1] if plane.rows_up else tile, spacing, 160))
    return strip(tiles)

"""A head that moves through a time series, by a motion that is known in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.images.files import Image
from tests.conftest import rotation

RADII_MM, SKULL_MM, WAVES = (62.0, 78.0, 52.0), 3.0, 24
STEP = 0.3  # mm and degrees, SD from volume to volume
JUMP = (3.0, -2.0, 2.0, 2.0, -3.0, 2.5)  # mm and degrees, in the middle of the series
DRIFT, NOISE = 0.08, 18.0  # of the intensities over the whole series; SD, of about 900


class Moving(NamedTuple):
    """truth: (D + 1, D + 1) of each volume, points of the first one → its own, LPS mm."""

    series: Image
    truth: list[Array]


def head(points_mm: Array) -> Array:
    """Intensity at LPS points (..., 3): an ellipsoid, soft at its edge, with waves inside."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(3, WAVES))
    directions /= np.linalg.norm(directions, axis=0)
    waves = 2 * np.pi * directions / random.uniform(14, 60, WAVES)
    angles = points_mm @ waves + random.uniform(0, 2 * np.pi, WAVES)
    texture = np.sin(angles.astype(np.float32)).sum(-1) * np.sqrt(2 / WAVES)
    depth = (1 - np.linalg.norm(points_mm / np.array(RADII_MM), axis=-1)) * min(RADII_MM)
    return np.clip(depth / SKULL_MM + 0.5, 0, 1) * (900 + 130 * texture)


def rigid(numbers: Array) -> Array:
    """(4, 4) of a shift in mm and turns about x, y, z in degrees."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(tuple(numbers[3:])), numbers[:3]
    return matrix


def walk(volumes: int, jump: tuple[float, ...] = JUMP, seed: int = 1) -> list[Array]:
    """Matrices (4, 4) of small random steps from the identity, with one jump."""
    steps = np.random.default_rng(seed).normal(size=(volumes, 6)) * STEP
    steps[0] = 0
    steps[volumes // 2] += jump
    return [rigid(numbers) for numbers in np.cumsum(steps, axis=0)]


def moving_head(grid: Grid, motion: list[Array], noise: float = NOISE) -> Moving:
    """int16 volumes on a grid, with noise and a drift of all intensities; motion: (4, 4) of each,
    LPS mm, the first one the identity."""
    random, points = np.random.default_rng(2), grid.points_mm()
    volumes = []
    for k, matrix in enumerate(motion):
        clean = head(apply_affine(np.linalg.inv(matrix), points)) * (1 + DRIFT * k / len(motion))
        volumes.append(np.rint(clean + random.normal(0, noise, clean.shape)).astype(np.int16))
    array = np.stack(volumes, axis=-1)
    return Moving(Image(array, grid, len(motion), "head", "time", 2.0), motion)


def errors(found: Array, true: Array) -> tuple[float, float]:
    """How far two maps (4, 4) bring the middle of the head apart, mm, and their angle, degrees."""
    left, _, right = np.linalg.svd(found[:3, :3] @ np.linalg.inv(true[:3, :3]))
    cosine = (np.trace(left @ right) - 1) / 2
    gap_mm = np.linalg.norm(found[:3, 3] - true[:3, 3])
    return float(gap_mm), float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

"""A torso-like phantom pair whose true correspondence is known in closed form.

One analytic anatomy, a function of points in mm, is looked at twice: the fixed image shows it
through R (fixed LPS → anatomy), the moving image through S (moving LPS → anatomy). R is a sum
of smooth bumps; S is a rigid motion and shears, whose inverse is exact. So the true transform,
from fixed to moving points, is T = S⁻¹ ∘ R without any numerical inversion, and neither image
is a resampled copy of the other. Intensities are CT-like (HU), noise is independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.io.images.files import Image

Map = Callable[[Array], Array]

AIR_HU, FAT_HU, MUSCLE_HU, BONE_HU, GAS_HU = -1000.0, -100.0, 45.0, 420.0, -900.0
NOISE_HU = 18.0
EDGE_MM, SKIN_MM, VERTEBRA_MM = 2.0, 14.0, 28.0
BODY_RADII = (165.0, 112.0, 1e4)


class Organ(NamedTuple):
    """A superellipsoid (exponent 2: an ellipsoid); centre and radii in anatomy mm."""

    name: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    texture_hu: float
    exponent: float = 2.0


# In painting order: what comes later lies on top. The patient's right is at negative x.
ORGANS = (
    Organ("right lung", (-72, 0, 85), (58, 82, 125), -840, 0, 2.5),
    Organ("left lung", (74, 0, 85), (54, 80, 125), -840, 0, 2.5),
    Organ("bowel", (0, -38, -150), (118, 56, 66), 20, 65, 2.6),
    Organ("liver", (-62, -8, -48), (88, 78, 62), 110, 14, 2.3),
    Organ("stomach", (52, -34, -52), (46, 40, 44), 25, 8),
    Organ("spleen", (106, 34, -42), (30, 42, 46), 130, 10),
    Organ("right kidney", (-64, 46, -128), (27, 26, 50), 185, 25),
    Organ("left kidney", (62, 48, -116), (27, 26, 52), 185, 25),
    Organ("heart", (22, -22, 52), (58, 50, 54), 150, 22),
    Organ("aorta", (12, 46, 0), (13, 13, 1e4), 210, 6),
    Organ("spine", (0, 80, 0), (24, 24, 1e4), 240, 60, 3.0),
)
LABELS = {1: "body"} | {k + 2: organ.name for k, organ in enumerate(ORGANS)}


@dataclass(frozen=True, eq=False)
class PhantomPair:
    """Two images (int16 HU), their labels (uint8, see LABELS) and what is true about them.

    truth: fixed LPS mm → moving LPS mm, any shape (..., 3). fixed_points, moving_points:
    (N, 3) corresponding positions inside organs that both images show.
    """

    fixed: Image
    moving: Image
    fixed_labels: Image
    moving_labels: Image
    truth: Map
    fixed_points: Array
    moving_points: Array


def make_phantom(seed: int = 0, voxel_mm: float = 3.0, points: int = 40) -> PhantomPair:
    """The pair for a seed: same seed, same bytes.

    voxel_mm scales both grids (3.0: about 120 × 100 × 96 voxels). The two differ in field of
    view, spacing, axis order and obliquity.
    """
    random = np.random.default_rng(seed)
    anatomy = _Anatomy(random)
    fixed_to_anatomy = _bumps(random)
    shears = _Shears(random)
    fixed, fixed_labels = _render(anatomy, fixed_to_anatomy, fixed_grid(voxel_mm), random)
    moving, moving_labels = _render(anatomy, shears.inverse, moving_grid(voxel_mm), random)

    def truth(points_lps: Array) -> Array:
        return shears(fixed_to_anatomy(np.asarray(points_lps, float)))

    chosen = _landmarks(fixed_labels, moving.grid, truth, points, random)
    return PhantomPair(fixed, moving, fixed_labels, moving_labels, truth, chosen, truth(chosen))


def fixed_grid(voxel_mm: float) -> Grid:
    """Upright, index axes along LPS, thicker slices."""
    spacing = (voxel_mm, voxel_mm, voxel_mm * 4 / 3)
    return _centred_grid((360, 270, 384), spacing, (0, 0, -10), np.eye(3))


def moving_grid(voxel_mm: float) -> Grid:
    """Finer slices, cropped at the top, index axes (P, L, I) and a tilt of 7 degrees."""
    axes = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]], float).T
    spacing = (voxel_mm * 1.1, voxel_mm * 1.1, voxel_mm * 1.2)
    return _centred_grid((300, 390, 345), spacing, (12, -10, -5), _rotation_x(7.0) @ axes)


def _centred_grid(
    extent_mm: tuple[float, ...],
    spacing_mm: tuple[float, ...],
    centre_mm: tuple[float, ...],
    direction: Array,
) -> Grid:
    size = [round(extent / step) for extent, step in zip(extent_mm, spacing_mm, strict=True)]
    half = (np.array(size) - 1) / 2 * np.array(spacing_mm)
    origin = np.array(centre_mm) - direction @ half
    return Grid(tuple(size), spacing_mm, tuple(origin.tolist()), tuple(direction.ravel().tolist()))


def _rotation_x(degrees: float) -> Array:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


class _Anatomy:
    """Intensity and label of a point in anatomy mm; the same for every view of it."""

    def __init__(self, random: np.random.Generator) -> None:
        self.organs = [_vary(organ, random) for organ in ORGANS]
        self.tissue = _Texture(random, 9.0, 45.0)
        self.vessels = _Texture(random, 16.0, 60.0)

    def __call__(self, points: Array) -> tuple[Array, NDArray[np.uint8]]:
        """(N, 3) mm → (N,) HU without noise, (N,) label."""
        hu = np.full(len(points), AIR_HU)
        labels = np.zeros(len(points), np.uint8)
        near = self._paint_body(points, hu, labels)
        for label, organ in enumerate(self.organs, start=2):
            here = near[_in_box(points[near], organ)]
            depth = _organ_depth(points[here], organ)
            hu[here] = _blend(hu[here], self._organ_hu(points[here], organ), depth)
            labels[here[depth > 0]] = label
        return hu, labels

    def _paint_body(self, points: Array, hu: Array, labels: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Fat, muscle and ribs, in place; returns which points lie in the body or near it."""
        depth = _depth(points, (0, 0, 0), BODY_RADII, 2.4)
        labels[depth > 0] = 1
        near = np.flatnonzero(depth > -EDGE_MM)
        depth, points = depth[near], points[near]
        texture = self.tissue(points)
        tissue = _blend(FAT_HU + 10 * texture, MUSCLE_HU + 12 * texture, depth - SKIN_MM)
        tissue = _blend(tissue, BONE_HU, _ribs(points, depth))
        hu[near] = _blend(hu[near], tissue, depth)
        return near

    def _organ_hu(self, points: Array, organ: Organ) -> Array:
        if organ.name.endswith("lung"):
            return organ.hu + 700 * np.exp(-((self.vessels(points) / 0.16) ** 2))
        hu: Array = organ.hu + organ.texture_hu * self.tissue(points)
        if organ.name == "spine":
            hu += 130 * np.cos(2 * np.pi * points[:, 2] / VERTEBRA_MM)
        if organ.name == "stomach":
            hu[points[:, 1] < organ.centre[1] - 0.45 * organ.radii[1]] = GAS_HU
        return hu


class _Texture:
    """A smooth pseudo-random function of position, about standard normal."""

    def __init__(self, random: np.random.Generator, shortest_mm: float, longest_mm: float) -> None:
        waves = 20
        directions = random.normal(size=(3, waves))
        wavelengths = random.uniform(shortest_mm, longest_mm, waves)
        self.vectors = 2 * np.pi * directions / np.linalg.norm(directions, axis=0) / wavelengths
        self.phases = random.uniform(0, 2 * np.pi, waves)

    def __call__(self, points: Array) -> Array:
        angles = (points @ self.vectors + self.phases).astype(np.float32)
        total: Array = np.sin(angles).sum(axis=-1).astype(float)
        return total * np.sqrt(2 / len(self.phases))


class _Shears:
    """Anatomy → moving LPS: three shears, each exactly invertible, then a rigid motion."""

    def __init__(self, random: np.random.Generator) -> None:
        self.amplitudes = random.uniform(7, 11, 3) * random.choice([-1, 1], 3)
        self.wavelengths = random.uniform(190, 280, (3, 2))
        self.phases = random.uniform(0, 2 * np.pi, (3, 2))
        self.rotation = _rotation_x(random.uniform(-6, 6))
        self.shift = random.uniform(14, 26, 3) * random.choice([-1, 1], 3)

    def __call__(self, points: Array) -> Array:
        moved = points.copy()
        for axis in range(3):
            moved[..., axis] += self._wave(moved, axis)
        return moved @ self.rotation.T + self.shift

    def inverse(self, points: Array) -> Array:
        moved = (points - self.shift) @ self.rotation
        for axis in reversed(range(3)):
            moved[..., axis] -= self._wave(moved, axis)
        return moved

    def _wave(self, points: Array, axis: int) -> Array:
        """Displacement along one axis as a function of the two others, in mm."""
        others = [k for k in range(3) if k != axis]
        angles = 2 * np.pi * points[..., others] / self.wavelengths[axis] + self.phases[axis]
        wave: Array = np.sin(angles[..., 0]) * np.sin(angles[..., 1])
        return self.amplitudes[axis] * wave


def _bumps(random: np.random.Generator) -> Map:
    """Fixed LPS → anatomy: Gaussian bumps, gentle enough that the map never folds."""
    centres = np.array([[-70, 0, 30], [70, 10, -40], [0, -20, -110], [0, 10, 110]], float)
    centres += random.uniform(-15, 15, centres.shape)
    pushes = random.uniform(-12, 12, centres.shape)
    width_mm = 60.0

    def bumps(points: Array) -> Array:
        moved = points.copy()
        for centre, push in zip(centres, pushes, strict=True):
            square = ((points - centre) ** 2).sum(axis=-1, keepdims=True)
            moved += push * np.exp(-square / (2 * width_mm**2))
        return moved

    return bumps


def _vary(organ: Organ, random: np.random.Generator) -> Organ:
    """This patient's organ: a little elsewhere, a little larger or smaller."""
    centre = np.array(organ.centre) + random.uniform(-5, 5, 3)
    radii = np.array(organ.radii) * random.uniform(0.93, 1.05, 3)
    return organ._replace(centre=tuple(centre.tolist()), radii=tuple(radii.tolist()))


def _in_box(points: Array, organ: Organ) -> NDArray[np.bool_]:
    """Whether the points can lie in the organ or on its edge."""
    reach = np.array(organ.radii) + EDGE_MM
    return np.all(np.abs(points - np.array(organ.centre)) < reach, axis=-1)


def _organ_depth(points: Array, organ: Organ) -> Array:
    depth = _depth(points, organ.centre, organ.radii, organ.exponent)
    return np.minimum(depth, _above_diaphragm(points)) if organ.name.endswith("lung") else depth


def _depth(
    points: Array, centre: tuple[float, ...], radii: tuple[float, ...], exponent: float
) -> Array:
    """Roughly the distance in mm below the surface of a superellipsoid; negative outside."""
    scaled = np.abs((points - np.array(centre)) / np.array(radii))
    radius: Array = (scaled**exponent).sum(axis=-1) ** (1 / exponent)
    return (1 - radius) * min(radii)


def _above_diaphragm(points: Array) -> Array:
    """Height in mm over the two domes of the diaphragm."""
    x, y, z = np.moveaxis(points, -1, 0)
    dome = 22 - 0.008 * (np.abs(x) - 70) ** 2 - 0.007 * y**2
    height: Array = z - dome
    return height


def _ribs(points: Array, body_depth: Array) -> Array:
    """Depth in slanted rings under the skin of the chest, about 8 mm across."""
    y, z = points[..., 1], points[..., 2]
    rings = 6.0 * np.cos(2 * np.pi * (z + 0.35 * y) / 30) - 2.5
    shell = 5.0 - np.abs(body_depth - SKIN_MM - 6.0)
    chest = np.minimum(z + 30, 8.0)
    return np.minimum(np.minimum(rings, shell), chest)


def _blend(below: Array, above: Array | float, depth: Array) -> Array:
    """Paint `above` where depth is positive, with a soft edge (partial volume)."""
    share = np.clip(depth / EDGE_MM + 0.5, 0, 1)
    return below + share * (above - below)


def _render(
    anatomy: _Anatomy, to_anatomy: Map, grid: Grid, random: np.random.Generator
) -> tuple[Image, Image]:
    hu, labels = anatomy(to_anatomy(grid.points_mm().reshape(-1, 3)))
    noisy = np.clip(hu + random.normal(0, NOISE_HU, hu.shape), -1024, 3071)
    voxels = np.rint(noisy).astype(np.int16).reshape(grid.shape_zyx)
    label_image = Image(labels.reshape(grid.shape_zyx), grid, source="phantom labels")
    return Image(voxels, grid, source="phantom"), label_image


def _landmarks(
    labels: Image, moving_grid: Grid, truth: Map, count: int, random: np.random.Generator
) -> Array:
    """Voxel centres inside organs whose true partner the moving image shows, 10 mm within."""
    inside = np.argwhere(np.greater(labels.array, 1))
    chosen = labels.grid.points_mm()[tuple(random.permutation(inside)[: 50 * count].T)]
    index = apply_affine(moving_grid.lps_to_index, truth(chosen))
    margin = 10 / np.array(moving_grid.spacing_mm)
    shown = np.all((index > margin) & (index < np.array(moving_grid.size_xyz) - margin), axis=-1)
    return chosen[shown][:count]

"""Means of transforms: of affine ones by their logarithms, of others by their displacements.

The arithmetic mean of two rotations is no rotation: it shrinks. The mean of their logarithms is
one, and does not depend on where the origin lies (Arsigny et al. 2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid
from carl_cli.transforms.core import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    from_homogeneous,
)
from carl_cli.transforms.fitting import fit_affine
from carl_cli.transforms.sampling import slab_grid, slabs

NEAR = 0.05  # of a matrix from the identity: there the series below end at rounding errors
TERMS = 8
MOST_ROOTS = 60
HALF_TURN = 1e-6  # of an eigenvalue's angle to the negative axis, where logarithms jump


def mean_affine(affines: Sequence[AffineTransform]) -> AffineTransform:
    """exp of the mean of the logarithms of their homogeneous matrices, LPS mm.

    The mean of rigid transforms is rigid; two transforms that are each other's inverse have the
    identity as their mean. Raises InputError for one that mirrors or makes half a turn.
    """
    logs = [logarithm(affine.homogeneous) for affine in affines]
    return from_homogeneous(exponential(np.mean(logs, axis=0)))


def mean_displacement(transforms: Iterable[Transform], grid: Grid) -> DisplacementField:
    """Mean of T(x) - x at each voxel centre of `grid`, mm LPS, float32."""
    total, count = np.zeros((*grid.shape_zyx, grid.dimension)), 0
    for transform in transforms:
        _add_displacement(total, transform, grid)
        count += 1
    return DisplacementField(grid, (total / count).astype(np.float32))


def _add_displacement(total: Array, transform: Transform, grid: Grid) -> None:
    for part in slabs(grid):
        points = slab_grid(grid, part).points_mm()
        total[part] += transform(points) - points


def as_affine(transform: Transform) -> AffineTransform | None:
    """The product of its parts, or None if one of them bends."""
    parts = transform.parts
    if not all(isinstance(part, AffineTransform) for part in parts):
        return None
    matrices = [part.homogeneous for part in parts if isinstance(part, AffineTransform)]
    return from_homogeneous(reduce(np.matmul, matrices))


@dataclass(frozen=True, eq=False)
class MeanMap:
    """The mean of maps of one space to several others, LPS mm: x → pose(shape(x))."""

    pose: AffineTransform  # mean of the maps' rigid parts
    shape: DisplacementField  # mean displacement of what these leave

    @property
    def map(self) -> CompositeTransform:
        return CompositeTransform((self.pose, self.shape))


def mean_map(maps: Iterable[Transform], grid: Grid, points: Array, weights: Array) -> MeanMap:
    """Each map T is split into R ∘ S, R being the rigid transform nearest to it.

    points (N, D) LPS mm with weights (N,): where R is fitted, robustly. grid: where S is averaged.
    Rotations have a log-Euclidean mean: that of their displacements would shrink. The points'
    centre goes to the mean of its places: where images lie in space does not mix with how they
    are turned. Sizes and all else of the shape have the mean of their displacements, so that maps
    x → T(M⁻¹(x)), M being the mean map, have none left beside their poses.
    Raises InputError for poses half a turn apart.
    """
    poses: list[AffineTransform] = []
    total = np.zeros((*grid.shape_zyx, grid.dimension))
    for transform in maps:
        poses.append(fit_affine(transform, points, weights, "rigid"))
        _add_displacement(total, poses[-1].inverse() @ transform, grid)
    shape = DisplacementField(grid, (total / len(poses)).astype(np.float32))
    centre = np.average(points, axis=0, weights=weights)
    return MeanMap(_mean_about(poses, centre), shape)


def _mean_about(poses: Sequence[AffineTransform], centre: Array) -> AffineTransform:
    matrix = exponential(np.mean([logarithm(pose.matrix) for pose in poses], axis=0))
    target = np.mean([pose(centre) for pose in poses], axis=0)
    return AffineTransform(matrix, target - matrix @ centre)


def logarithm(matrix: Array) -> Array:
    """Principal logarithm of a real matrix (n, n), by square roots until the series converges.

    Raises InputError where there is none: the matrix mirrors, or makes half a turn.
    """
    _check_has_logarithm(matrix)
    root, roots = matrix, 0
    while np.linalg.norm(root - np.eye(len(root))) > NEAR and roots < MOST_ROOTS:
        root, roots = _square_root(root), roots + 1
    one = np.eye(len(root))
    z = np.linalg.solve((root + one).T, (root - one).T).T
    powers = [np.linalg.matrix_power(z, 2 * k + 1) / (2 * k + 1) for k in range(TERMS)]
    return np.asarray(2.0 ** (roots + 1) * np.sum(powers, axis=0))


def _check_has_logarithm(matrix: Array) -> None:
    values = np.linalg.eigvals(matrix)
    if (np.pi - np.abs(np.angle(values)) < HALF_TURN).any() or (np.abs(values) < 1e-12).any():
        raise InputError(
            "an affine part mirrors, flattens or makes half a turn: it has no mean with others",
            "bring the images into similar poses first: carl register --transform rigid",
        )


def _square_root(matrix: Array) -> Array:
    """Denman-Beavers iteration; it converges quadratically."""
    root, inverse = matrix, np.eye(len(matrix))
    for _ in range(MOST_ROOTS):
        following = (root + np.linalg.inv(inverse)) / 2
        inverse = (inverse + np.linalg.inv(root)) / 2
        if float(np.abs(following - root).max()) <= 1e-15 * float(np.abs(following).max()):
            return following
        root = following
    return root


def exponential(matrix: Array) -> Array:
    """exp of a real matrix (n, n): its Taylor series for a small part of it, then squared."""
    excess = float(np.linalg.norm(matrix)) / NEAR
    halvings = math.ceil(math.log2(excess)) if excess > 1 else 0
    small = matrix / 2.0**halvings
    term = result = np.eye(len(matrix))
    for k in range(1, 2 * TERMS):
        term = term @ small / k
        result = result + term
    for _ in range(halvings):
        result = result @ result
    return np.asarray(result)

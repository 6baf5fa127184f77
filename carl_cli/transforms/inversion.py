"""Pointwise inverse of x → x + u(x) by Newton steps with backtracking."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from carl_cli.geometry import Array
from carl_cli.transforms.matrices import adjugate

Field = Callable[[Array], tuple[Array, Array]]

MAX_STEPS = 60
SMALLEST_DETERMINANT = 1e-2


def solve(field: Field, targets: Array, tolerance_mm: float) -> Array:
    """Points x (N, D) with |x + u(x) - target| below the tolerance where such x is found.

    `field` gives u (N, D) in mm and its spatial derivative (N, D, D) at points (N, D).
    Each point keeps its own step length and only ever moves to a smaller residual, so a
    point in a fold ends at its best place instead of oscillating.
    """
    best = targets.copy()
    error, jacobian = _residual(field, best, targets)
    length = np.ones(len(best))
    active = np.flatnonzero(_norm(error) > tolerance_mm)
    for _ in range(MAX_STEPS):
        if active.size == 0:
            break
        step = _newton_step(jacobian[active], error[active])
        trial = best[active] - length[active, None] * step
        trial_error, trial_jacobian = _residual(field, trial, targets[active])
        better = _norm(trial_error) < _norm(error[active])
        moved = active[better]
        best[moved], error[moved] = trial[better], trial_error[better]
        jacobian[moved] = trial_jacobian[better]
        length[active] = np.where(better, np.minimum(1, 2 * length[active]), length[active] / 2)
        active = active[_norm(error[active]) > tolerance_mm]
    return best


def _residual(field: Field, points: Array, targets: Array) -> tuple[Array, Array]:
    displacement, gradient = field(points)
    jacobian = gradient + np.eye(points.shape[1])
    return points + displacement - targets, jacobian


def _newton_step(jacobian: Array, error: Array) -> Array:
    """J⁻¹ e, or the fixed-point step e where J is folded or nearly singular."""
    cofactors = adjugate(jacobian)
    size = np.einsum("nk,nk->n", jacobian[:, 0, :], cofactors[:, :, 0])
    usable = size > SMALLEST_DETERMINANT
    newton: Array = np.einsum("nij,nj->ni", cofactors, error)
    newton /= np.where(usable, size, 1)[:, None]
    return np.where(usable[:, None], newton, error)


def _norm(vectors: Array) -> Array:
    return np.sqrt(np.einsum("nk,nk->n", vectors, vectors))

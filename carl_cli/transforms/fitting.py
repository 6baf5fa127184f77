"""The rigid, similarity or affine transform nearest to a map, in the least-squares sense."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carl_cli.transforms import AffineTransform, Transform
from carl_cli.transforms.linear import Linear, RigidTransform, SimilarityTransform

Floats = NDArray[np.float64]
ROUNDS = 5  # of reweighting; more changes nothing in practice


def fit_affine(
    transform: Transform, points: Floats, weights: Floats, kind: Linear = "affine"
) -> AffineTransform:
    """A of this kind minimising Σ w |A x - T x|, robustly.

    points (N, D) LPS mm, weights (N,) ≥ 0. Points far from the fit count less in the next
    round (Huber weights at the median residual), so a local deformation doesn't tilt it.
    """
    kept = weights > 0
    return fit_points(points[kept], transform(points[kept]), weights[kept], kind)


def fit_points(
    points: Floats, targets: Floats, weights: Floats, kind: Linear = "affine"
) -> AffineTransform:
    """The same for points with known targets, both (N, D) LPS mm; weights (N,) > 0."""
    solve = {"rigid": _rigid, "similarity": _similarity, "affine": _affine}[kind]
    robust = weights
    for _ in range(ROUNDS):
        fit = solve(points, targets, robust)
        residual = np.linalg.norm(fit(points) - targets, axis=1)
        limit = max(float(np.median(residual)), 1e-9)
        robust = weights * np.minimum(1.0, limit / np.maximum(residual, 1e-12))
    return fit


def _affine(points: Floats, targets: Floats, weights: Floats) -> AffineTransform:
    root = np.sqrt(weights)[:, None]
    design = np.hstack([points, np.ones((len(points), 1))])
    solution = np.linalg.lstsq(design * root, targets * root, rcond=None)[0]
    return AffineTransform(solution[:-1].T, solution[-1])


def _rigid(points: Floats, targets: Floats, weights: Floats) -> AffineTransform:
    a, b, covariance, _ = _moments(points, targets, weights)
    rotation = _rotation(covariance)
    return RigidTransform(rotation, b - rotation @ a)


def _similarity(points: Floats, targets: Floats, weights: Floats) -> AffineTransform:
    """Umeyama's scale: how far the targets stretch along the turned points."""
    a, b, covariance, variance = _moments(points, targets, weights)
    rotation = _rotation(covariance)
    matrix = np.einsum("ij,ij->", rotation, covariance) / variance * rotation
    return SimilarityTransform(matrix, b - matrix @ a)


def _moments(
    points: Floats, targets: Floats, weights: Floats
) -> tuple[Floats, Floats, Floats, float]:
    """Both means, the covariance of targets with points, and the variance of the points."""
    # No product of a row with a matrix: BLAS shares its sums among its threads.
    share = (weights / weights.sum())[:, None]
    a, b = (share * points).sum(0), (share * targets).sum(0)
    covariance = (targets - b).T @ ((points - a) * share)
    return a, b, covariance, float((share * (points - a) ** 2).sum())


def _rotation(covariance: Floats) -> Floats:
    """Kabsch's algorithm: the rotation from the singular vectors of the covariance."""
    u, _, vt = np.linalg.svd(covariance)
    signs = np.ones(len(covariance))
    signs[-1] = np.sign(np.linalg.det(u @ vt))  # a reflection is not a rotation
    return np.asarray((u * signs) @ vt)

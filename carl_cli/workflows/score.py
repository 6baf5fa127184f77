"""How good a registration is: figures for the record and the report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carl_cli.evaluation import metrics
from carl_cli.evaluation.truth import Truth, landmark_errors, structure_scores
from carl_cli.io.images.files import Image
from carl_cli.io.resample import resample
from carl_cli.registration.register import Registration
from carl_cli.report.advice import linear_part, overlap_percent
from carl_cli.report.record import ErrorSummary, Metrics, Similarity
from carl_cli.transforms import Transform, jacobian_determinant


def score(fixed: Image, moving: Image, result: Registration, truth: Truth) -> Metrics:
    """Similarity, folds and inverse consistency inside the fixed foreground, on the network's
    grid; Dice and HD95 on the fixed segmentation's grid; TRE in the moving image."""
    prepared = result.prepared
    grid = prepared.fixed.grid
    inside = prepared.fixed.array > 0 if prepared.fixed.mask is None else prepared.fixed.mask
    jacobian = jacobian_determinant(result.forward, grid)[inside]
    rotation, determinant = linear_part(result.forward, fixed.grid)
    spread = result.spread_mm
    return Metrics(
        similarity_before=_similarity(result, moving, None),
        similarity_after=_similarity(result, moving, result.forward),
        overlap_percent=overlap_percent(result.forward, fixed.grid, moving.grid),
        folded_percent=metrics.folded_percent(jacobian),
        sdlogj=metrics.sdlogj(jacobian),
        inverse_consistency_mm=_inverse_error_mm(result, inside),
        rotation_degrees=rotation,
        linear_determinant=determinant,
        match_spread_mm=None if spread is None else float(np.median(spread)),
        match_evidence=result.evidence,
        structures=structure_scores(truth, result.forward),
        landmarks=landmark_errors(truth, result.forward),
    )


def _similarity(result: Registration, moving: Image, transform: Transform | None) -> Similarity:
    """Of the fixed network image and the moving image seen through a transform on its grid.

    Before registration the moving image stands where its header puts it.
    """
    prepared = result.prepared
    low, high, _ = prepared.moving.intensity
    seen = resample(moving, prepared.fixed.grid, transform, background=low, dtype=np.float32)
    scaled = np.clip((seen.array.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    a, b, mask = prepared.fixed.array, scaled, prepared.fixed.mask
    return Similarity(
        lncc=metrics.lncc(a, b, mask),
        ncc=metrics.ncc(a, b, mask),
        nmi=metrics.nmi(a, b, mask),
    )


def _inverse_error_mm(result: Registration, inside: NDArray[np.bool_]) -> ErrorSummary:
    """Of backward(forward(x)) from x at every second voxel of the foreground."""
    every_second = (slice(None, None, 2),) * inside.ndim
    points = result.prepared.fixed.grid.points_mm()[every_second][inside[every_second]]
    error = metrics.inverse_consistency_error(result.forward, result.backward, points)
    return ErrorSummary(mean=error.mean_mm, p95=error.p95_mm, max=error.max_mm)

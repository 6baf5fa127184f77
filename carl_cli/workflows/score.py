"""How good a registration is: figures for the record and the report."""

from __future__ import annotations

from functools import partial

import numpy as np

from carl_cli.evaluation import metrics
from carl_cli.evaluation.scores import folds_of, mask_on, similarity_of
from carl_cli.evaluation.truth import Truth, landmark_errors, structure_scores
from carl_cli.io.images.files import Image
from carl_cli.model.parallel import both
from carl_cli.registration.register import Registration
from carl_cli.report.advice import linear_part, overlap_percent
from carl_cli.report.record import ErrorSummary, Metrics


def score(
    fixed: Image, moving: Image, result: Registration, truth: Truth, mask: Image | None = None
) -> Metrics:
    """Similarity and folds on the fixed image's grid, all of it or inside the mask, as `carl
    evaluate` has them; inverse consistency in the foreground of the network's grid; Dice and HD95
    on the fixed segmentation's grid; TRE in the moving image."""
    inside = None if mask is None else mask_on(mask, fixed.grid)
    folds = folds_of(result.forward, fixed.grid, inside)
    rotation, determinant = linear_part(result.forward, fixed.grid)
    spread = result.spread_mm
    before, after = both(
        partial(similarity_of, fixed, moving, None, inside),
        partial(similarity_of, fixed, moving, result.forward, inside),
        None,
    )
    return Metrics(
        similarity_before=before,
        similarity_after=after,
        overlap_percent=overlap_percent(result.forward, fixed.grid, moving.grid),
        folded_percent=folds.percent,
        sdlogj=folds.sdlogj,
        inverse_consistency_mm=_inverse_error_mm(result),
        rotation_degrees=rotation,
        linear_determinant=determinant,
        match_spread_mm=None if spread is None else float(np.median(spread)),
        match_evidence=result.evidence,
        structures=structure_scores(truth, result.forward),
        landmarks=landmark_errors(truth, result.forward),
    )


def _inverse_error_mm(result: Registration) -> ErrorSummary:
    """Of backward(forward(x)) from x at every second voxel of the foreground."""
    prepared = result.prepared.fixed
    inside = prepared.array > 0 if prepared.mask is None else prepared.mask
    every_second = (slice(None, None, 2),) * inside.ndim
    points = prepared.grid.points_mm()[every_second][inside[every_second]]
    error = metrics.inverse_consistency_error(result.forward, result.backward, points)
    return ErrorSummary(mean=error.mean_mm, p95=error.p95_mm, max=error.max_mm)

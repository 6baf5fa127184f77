"""What deserves a second look in a result, in plain words.

The thresholds are for attention, not for truth: they are where a reader of many results
starts to look closer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.image import Image
from carl_cli.report.record import Metrics
from carl_cli.transforms import Transform

LEAST_OVERLAP_PERCENT = 20.0
MOST_FOLDED_PERCENT = 0.03  # of the image: 0.1 of a body that fills a third of it
MOST_INVERSE_ERROR_MM = 5.0
MOST_ROTATION_DEGREES = 45.0
MOST_SPREAD_MM = 20.0
LEAST_EVIDENCE = 0.225
"""See `registration.alignment.evidence`. Right matches of the validation's pairs had 0.25 and more
(one of a brain without its head: 0.12), wrong ones 0.20 and less."""
ALIKE = 0.98
"""Images correlated like this before and after need no gain."""


def advise(metrics: Metrics) -> list[str]:
    """One sentence for each doubt; empty when nothing stands out. Unknown values are passed."""
    doubts = (_overlap, _evidence, _similarity, _folds, _inverse, _flip, _rotation, _match_spread)
    return [text for text in (doubt(metrics) for doubt in doubts) if text]


def same_image(fixed: Sequence[Image], moving: Sequence[Image]) -> list[str]:
    """A sentence if both sides are equal, contrast by contrast, in voxels and place: most likely
    one file was named for another. A registration with itself is computed all the same."""
    pairs = zip_longest(fixed, moving)
    if not all(one and other and _equal(one, other) for one, other in pairs):
        return []
    return ["Fixed and moving are the same image: check that both files were meant."]


def _equal(one: Image, other: Image) -> bool:
    return one.grid.matches(other.grid) and np.array_equal(one.array, other.array)


def grave_doubts(metrics: Metrics) -> list[str]:
    """The doubts with which a strict run fails: poor overlap, a match without evidence
    (or without gain in similarity), folds."""
    doubts = (_overlap, _evidence, _similarity, _folds)
    return [text for text in (doubt(metrics) for doubt in doubts) if text]


def _overlap(metrics: Metrics) -> str:
    percent = metrics.overlap_percent
    if percent is None or percent >= LEAST_OVERLAP_PERCENT:
        return ""
    return (
        f"Poor overlap: only {percent:.0f} % of the fixed image is mapped into the moving image. "
        "Check that both show the same region."
    )


def _evidence(metrics: Metrics) -> str:
    share = metrics.match_evidence
    if share is None or share >= LEAST_EVIDENCE:
        return ""
    return (
        f"Doubtful match: maps a little beside this one fit nearly as well ({share:.2f}, at least "
        f"{LEAST_EVIDENCE} is expected). Look at the images before you use it."
    )


def _similarity(metrics: Metrics) -> str:
    """Of intensities, for weights whose match is not judged by its evidence."""
    if metrics.match_evidence is not None:
        return ""
    before, after = metrics.similarity_before, metrics.similarity_after
    for name in ("lncc", "nmi", "ncc"):
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None:
            if new > old or (name != "nmi" and min(old, new) >= ALIKE):
                return ""
            return f"No gain: {name.upper()} was {old:.3f} before and is {new:.3f} after."
    return ""


def _folds(metrics: Metrics) -> str:
    percent = metrics.folded_percent
    if percent is None or percent <= MOST_FOLDED_PERCENT:
        return ""
    return (
        f"Folds: {percent:.2g} % of voxels have a Jacobian determinant of zero or less. "
        "The map can't be inverted there."
    )


def _inverse(metrics: Metrics) -> str:
    error = metrics.inverse_consistency_mm
    if error is None or error.p95 is None or error.p95 <= MOST_INVERSE_ERROR_MM:
        return ""
    return (
        "Forward and backward registration disagree: by more than "
        f"{error.p95:.1f} mm in 5 % of voxels."
    )


def _flip(metrics: Metrics) -> str:
    if metrics.linear_determinant is None or metrics.linear_determinant >= 0:
        return ""
    return (
        "Suspicious flip: the map turns left into right. "
        "One of the files probably states a wrong orientation."
    )


def _rotation(metrics: Metrics) -> str:
    degrees = metrics.rotation_degrees
    if degrees is None or degrees <= MOST_ROTATION_DEGREES:
        return ""
    return (
        f"Large rotation: {degrees:.0f} degrees between the images. "
        "Check that the orientation in both files is right."
    )


def _match_spread(metrics: Metrics) -> str:
    spread = metrics.match_spread_mm
    if spread is None or spread <= MOST_SPREAD_MM or metrics.match_evidence is not None:
        return ""
    return (
        f"Unsure match: the network's matches are spread over {spread:.0f} mm (median). "
        "The images share few clear features."
    )


def linear_part(transform: Transform, grid: Grid) -> tuple[float, float]:
    """(rotation angle in degrees, determinant) of the affine map nearest to T on the grid.

    The rotation is that of the polar decomposition, a mirror image taken out first.
    """
    points = _sparse_points(grid)
    design = np.c_[points - points.mean(axis=0), np.ones(len(points))]
    solution, *_ = np.linalg.lstsq(design, transform(points), rcond=None)
    matrix = solution[:-1].T
    left, _, right = np.linalg.svd(matrix)
    turn = left @ right
    turn *= np.sign(np.linalg.det(turn)) if grid.dimension == 3 else 1.0
    cosine = (np.trace(turn) - 1) / 2 if grid.dimension == 3 else turn[0, 0]
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), float(np.linalg.det(matrix))


def overlap_percent(transform: Transform, fixed: Grid, moving: Grid) -> float:
    """Part of the fixed field of view that T maps into the moving image's field of view."""
    index = apply_affine(moving.lps_to_index, transform(_sparse_points(fixed)))
    inside = (index >= -0.5) & (index <= np.array(moving.size_xyz) - 0.5)
    return float(100 * inside.all(axis=-1).mean())


def _sparse_points(grid: Grid) -> np.ndarray:
    """(n, D) LPS points spread evenly through the field of view, at most 24 an axis."""
    counts = np.minimum(grid.size_xyz, 24)
    axes = [(np.arange(c) + 0.5) * n / c - 0.5 for c, n in zip(counts, grid.size_xyz, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.dimension)
    return apply_affine(grid.index_to_lps, index)

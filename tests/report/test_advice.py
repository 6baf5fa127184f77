"""Doubts are raised where they should be, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from carl_cli.geometry import Grid
from carl_cli.report.advice import advise, linear_part, overlap_percent
from carl_cli.report.record import ErrorSummary, Metrics, Similarity
from carl_cli.transforms import AffineTransform, identity
from tests.report.conftest import Pair, grid_around

GOOD = {
    "similarity_before": Similarity(lncc=0.3, ncc=0.5, nmi=1.1),
    "similarity_after": Similarity(lncc=0.8, ncc=0.9, nmi=1.3),
    "overlap_percent": 95.0,
    "folded_percent": 0.0,
    "inverse_consistency_mm": ErrorSummary(mean=0.2, p95=0.5, max=2.0),
    "rotation_degrees": 10.0,
    "linear_determinant": 1.1,
    "match_spread_mm": 4.0,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overlap_percent": 12.3}, "only 12 %"),
        ({"folded_percent": 0.5}, "0.5 % of voxels"),
        ({"inverse_consistency_mm": ErrorSummary(mean=3, p95=9, max=20)}, "9.0 mm"),
        ({"linear_determinant": -1.0}, "left into right"),
        ({"rotation_degrees": 90.0}, "90 degrees"),
        ({"match_spread_mm": 31.0}, "31 mm"),
        ({"match_evidence": 0.2}, "Doubtful match"),
        ({"similarity_after": Similarity(lncc=0.2)}, "LNCC was 0.300 before and is 0.200"),
        ({"similarity_after": Similarity(nmi=1.1)}, "NMI was"),
    ],
)
def test_each_doubt_is_one_sentence_of_its_own(change: dict, words: str) -> None:
    said = advise(Metrics.model_validate(GOOD | change))
    assert len(said) == 1
    assert words in said[0]


def test_good_and_unknown_results_pass() -> None:
    assert advise(Metrics.model_validate(GOOD)) == []
    assert advise(Metrics()) == []


@pytest.mark.parametrize("degrees", [0.0, 37.0, 90.0, 180.0])
def test_linear_part_of_a_similarity(degrees: float) -> None:
    turn = np.radians(degrees)
    cosine, sine = np.cos(turn), np.sin(turn)
    matrix = 1.2 * np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    grid = grid_around((20, 30, 12), (2.0, 1.5, 4.0), centre=(50, -20, 300))
    found = linear_part(AffineTransform(matrix, np.array([5.0, 6, 7])), grid)
    assert found == (pytest.approx(degrees, abs=1e-5), pytest.approx(1.2**3))


def test_linear_part_of_a_mirror_is_negative_and_of_a_field_is_close(pair: Pair) -> None:
    mirror = AffineTransform(np.diag([-1.0, 1, 1]), np.zeros(3))
    degrees, determinant = linear_part(mirror, pair.fixed.grid)
    assert determinant == pytest.approx(-1)
    assert degrees == pytest.approx(180)  # a mirror is a half turn and an inversion
    degrees, determinant = linear_part(pair.transform, pair.fixed.grid)
    assert degrees == pytest.approx(10, abs=0.2)
    assert determinant == pytest.approx(1, abs=0.1)


def test_linear_part_of_a_flat_turn() -> None:
    grid = Grid((20, 30), (1.0, 2.0), (3.0, 4.0), (1.0, 0, 0, 1))
    turn = np.radians(30)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    assert linear_part(AffineTransform(matrix, np.zeros(2)), grid)[0] == pytest.approx(30)


def test_overlap_counts_mapped_points() -> None:
    grid = grid_around((24, 24, 24), (1.0, 1.0, 1.0))
    assert overlap_percent(identity(3), grid, grid) == 100
    shift = AffineTransform(np.eye(3), np.array([6.0, 0, 0]))
    assert overlap_percent(shift, grid, grid) == pytest.approx(75)
    away = AffineTransform(np.eye(3), np.array([0, 0, 500.0]))
    assert overlap_percent(away, grid, grid) == 0

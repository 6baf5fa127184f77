"""Names of labels on their way from the command line into the record and the page."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from carl_cli.evaluation.truth import Truth, structure_scores
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.io.label_names import LabelName
from carl_cli.transforms import identity

GRID = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))
LABELS = Image(np.repeat(np.array([0, 2, 17, 3], np.uint8), 16).reshape(4, 4, 4), GRID)


def test_scores_carry_names_and_colours() -> None:
    names = {2: LabelName("white matter", "#f5f5f5"), 17: LabelName("hippocampus")}
    scores = structure_scores(Truth(LABELS, LABELS, label_names=names), identity(3))
    told = [(score.label, score.name, score.colour, score.dice) for score in scores]
    assert told == [
        ("2", "white matter", "#f5f5f5", 1),
        ("3", "", "", 1),
        ("17", "hippocampus", "", 1),
    ]


def test_a_table_of_other_labels_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        structure_scores(Truth(LABELS, LABELS, label_names={99: LabelName("x")}), identity(3))
    assert "names none of the labels 2, 3, 17" in caplog.text


def test_names_without_labels_are_refused(carl, pair, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table = tmp_path / "names.txt"
    table.write_text("1 spleen 255 0 0 0\n")
    done = carl(
        "register", pair.fixed, pair.moving, "-o", tmp_path / "T.h5", "--label-names", table,
        "--dry-run",
    )  # fmt: skip
    assert done.code == 2
    assert "--label-names was given without labels" in done.err

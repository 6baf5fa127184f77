"""Box plots of Dice label by label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from carl_cli.errors import InputError
from carl_cli.evaluation.boxes import draw_boxes, values_by_label
from tests.cli.conftest import Carl, carl  # noqa: F401 (a fixture)

FIRST = [
    {"id": "a", "dice[10]": 0.5, "dice[2]": 0.7},
    {"id": "b", "dice[10]": np.nan, "dice[2]": 1.0},
]
SECOND = [{"id": "a", "dice[2]": 0.9, "dice": 0.9, "hd95_mm[2]": 3.0}]


def test_values_by_label_and_run() -> None:
    found = values_by_label({"first": FIRST, "second": SECOND})
    assert list(found) == [2, 10]
    assert found == {2: {"first": [0.7, 1.0], "second": [0.9]}, 10: {"first": [0.5]}}


def test_a_figure_or_a_reason(tmp_path: Path) -> None:
    draw_boxes({"run": FIRST}, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    with pytest.raises(InputError, match="no figure dice of single labels"):
        draw_boxes({"run": [{"id": "a", "dice": 0.5}]}, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_two_runs_in_one_figure(carl: Carl, tmp_path: Path) -> None:  # noqa: F811
    for name, dice in (("a", 0.5), ("b", 0.7)):
        rows = [f"{case},{dice},{dice}\n" for case in "xy"]
        (tmp_path / f"{name}.csv").write_text("id,dice,dice[1]\n" + "".join(rows))
    command = ("evaluate", "compare", tmp_path / "a.csv", tmp_path / "b.csv", "--figure")
    assert carl(*command, tmp_path / "boxes.png").code == 0
    assert (tmp_path / "boxes.png").read_bytes()[1:4] == b"PNG"
    assert carl(*command, tmp_path / "boxes.png").code == 7
    assert carl(*command, tmp_path / "boxes.gif").code == 2

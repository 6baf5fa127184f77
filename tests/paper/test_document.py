"""docs/explanation/paper.md: all of the paper is in its tables, and what they name exists."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from examples.paper.vessels import SETS
from tests.conftest import REPOSITORY
from tests.scripts import loaded, understood

ROOT = Path(__file__).parents[2]
GENERATOR = loaded(ROOT / "docs" / "generate_paper.py")
CLAIMS: list[dict[str, Any]] = GENERATOR.claims()
COMMANDS_SHOWN = sorted({command for row in CLAIMS for command in row["commands"]})
PAPER = (
    *(f"Sec. {n}" for n in ("1", "2", "3", "4", "5", "5.1", "5.2", "6", "6.1", "6.2", "6.3", "7")),
    *(f"Eq. {n}" for n in range(1, 25)),
    *(f"Fig. {n}" for n in range(1, 9)),
    *(f"Table {n}" for n in (1, 2)),
    *(f"App. {n}" for n in ("A", "B", "C", "C.1", "C.2", "D", "E", "F")),
    *(f"App. {n}" for n in ("G", "G.1", "G.2", "G.3", "H", "I")),
)


@pytest.mark.parametrize("page", GENERATOR.TABLES, ids=lambda page: page.parent.name)
def test_the_tables_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == GENERATOR.document(page), "out of date: run python docs/generate_paper.py"


def test_figure_3_tells_as_many_seeds_as_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means of two seeds 0.6 and 0.7: 0.65 ± 0.1/√2; a network that one seed has trained has no
    spread, nor have the images before."""
    monkeypatch.setattr(GENERATOR, "RESULTS", tmp_path)
    seeds = [{kind: [0.5 + k / 10, 0.7 + k / 10] for kind in SETS} for k in (0, 1)]
    results = {"before": seeds[0], "CARL-scale-shift-0": seeds[0], "CARL-scale-shift-1": seeds[1]}
    file = tmp_path / "retina.json"
    file.write_text(json.dumps({**results, "attention-baseline-0": seeds[1]}))
    assert GENERATOR.retina_table().splitlines()[2:] == [
        "| before |  |  | 0.600 | 0.600 | 0.600 |",
        "| CARL | scale shift | 2 | 0.650 ± 0.071 | 0.650 ± 0.071 | 0.650 ± 0.071 |",
        "| attention | baseline | 1 | 0.700 | 0.700 | 0.700 |",
    ]
    told = GENERATOR.retina_figures()
    assert told["CARL"] == "scale shift → scale shift 0.650 ± 0.071"
    assert told["before"] == "baseline 0.600; shift 0.600; scale shift 0.600"
    assert told["seeds"] == "1-2 seeds, ± the standard deviation between them"
    file.write_text(json.dumps({"before": seeds[0], "CARL-baseline-0": seeds[0]}))
    assert GENERATOR.retina_figures()["seeds"] == "1 seed"


def test_every_part_of_the_paper_is_claimed_and_nothing_else() -> None:
    assert {part for row in CLAIMS for part in row["paper"]} == set(PAPER)
    assert {row["part"] for row in CLAIMS} <= set(GENERATOR.TABLES[GENERATOR.PAGE])


def test_the_list_is_that_of_the_paper() -> None:
    """Headings, captions and numbers of equations of its text."""
    path = Path(os.environ.get("CARL_PAPER", REPOSITORY / "../shared/paper")) / "carl-paper.txt"
    if not path.is_file():
        pytest.skip(f"{path} is absent: set CARL_PAPER to the folder with the paper's text")
    text = path.read_text(encoding="utf-8")
    before, supplement = text.split("\nSupplemental Material\n")
    found = {
        f"Eq. {n}" for n in re.findall(r"\\tag\{(\d+)\}|(?<= )\((\d+)\)\$\$", text) for n in n if n
    }
    found |= {f"Fig. {n}" for n in re.findall(r"(?m)^Figure (\d+):", text)}
    found |= {f"Table {n}" for n in re.findall(r"(?m)^Table (\d+):", text)}
    found |= {f"Sec. {n}" for n in re.findall(r"(?m)^(\d(?:\.\d)?) [A-Z$]", before)}
    found |= {f"App. {n}" for n in re.findall(r"(?m)^([A-I](?:\.\d)?) [A-Z]", supplement)}
    assert sorted(set(PAPER) - found) == []
    assert sorted(found - set(PAPER)) == []


def test_every_claim_has_a_file_and_a_command_or_says_why_not() -> None:
    unshown = [row["claim"] for row in CLAIMS if not row["commands"] or not row["files"]]
    without = [row["claim"] for row in CLAIMS if "nothing to run" in row["found"]]
    assert set(unshown) == {*without, "how the rivals were run"}


def test_every_file_exists() -> None:
    text = GENERATOR.PAGE.read_text(encoding="utf-8")
    named = re.findall(r"(?:carl_cli|examples|benchmarks|tests|docs)/[\w./-]*\w", text)
    listed = [path for row in CLAIMS for path in row["files"]]
    assert len(listed) > 20
    assert [path for path in (*named, *listed) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("command", COMMANDS_SHOWN)
def test_every_command_is_understood(command: str) -> None:
    """Options exist and take such values, programs and tests are there; nothing is run."""
    words = shlex.split(command)
    if words[0] == "carl":
        understood(words[1:])
        return
    assert words[0] == "python"
    if words[1:3] == ["-m", "pytest"]:
        assert [path for path in words[3:] if not (ROOT / path).exists()] == []
        return
    script = importlib.util.find_spec(words[2]).origin if words[1] == "-m" else words[1]  # type: ignore[union-attr]
    code = (ROOT / str(script)).read_text(encoding="utf-8")
    assert [w for w in words if w.startswith("--") and f'"{w}"' not in code] == []

"""docs/explanation/paper.md: all of the paper is in its tables, and what they name exists."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

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

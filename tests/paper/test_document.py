"""docs/explanation/paper.md: its figures are the protocols', its files and modules exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scripts import loaded

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "paper.md"


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_published_figures_are_current(text: str) -> None:
    module = loaded(ROOT / "docs" / "generate_paper.py")
    assert text == module.document(), "out of date: run python docs/generate_paper.py"


def test_every_file_and_module_exists(text: str) -> None:
    files = re.findall(r"(?:carl_cli|examples|benchmarks|tests)/[\w./-]*\w", text)
    modules = [
        m.replace(".", "/") + ".py" for m in re.findall(r"python -m ((?!pytest)[\w.]+)", text)
    ]
    assert len(files) > 20
    assert [path for path in (*files, *modules) if not (ROOT / path).exists()] == []


def test_every_equation_table_figure_and_appendix_is_named(text: str) -> None:
    equations: set[int] = set()
    for first, last in re.findall(r"Eq\. (\d+)(?:-(\d+))?", text):
        equations |= set(range(int(first), int(last or first) + 1))
    assert equations == set(range(1, 25))
    figures: set[int] = set()
    for first, last in re.findall(r"Fig\. (\d)(?:-(\d))?", text):
        figures |= set(range(int(first), int(last or first) + 1))
    assert figures == set(range(1, 9))
    assert all(f"Table {k}" in text for k in (1, 2))
    assert all(f"App. {letter}" in text for letter in "ABCDEFGHI")

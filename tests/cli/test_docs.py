"""Every command is documented: in docs/reference/cli.md word for word, in the README by name."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from carl_cli.cli.commands import COMMANDS, ENTRIES
from tests.scripts import loaded

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return loaded(ROOT / "docs" / "generate_cli.py")


def test_the_command_reference_is_current(generator: ModuleType) -> None:
    written = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert written == generator.document(), "docs/reference/cli.md is out of date: run `make docs`"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_parameter_is_explained(generator: ModuleType, name: str) -> None:
    """A line of the reference that ends with its dash has no help text."""
    from carl_cli.cli.app import load

    text = "\n".join(generator._command(name, load(COMMANDS[name])))
    silent = [line for line in text.splitlines() if line.startswith("- ") and line.endswith("—")]
    assert silent == []
    assert "\n\n\n```" not in text, "the command itself has no docstring"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_readme_names_every_command(name: str) -> None:
    assert f"carl {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_command_is_listed_twice() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names))

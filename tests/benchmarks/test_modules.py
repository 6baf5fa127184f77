"""Every benchmark and example still finds what it imports from carl."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "benchmarks/contest", "examples", "examples/paper")
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.py"))
]


@pytest.mark.parametrize("module", MODULES)
def test_its_imports_are_there(module: str) -> None:
    import_module(module)

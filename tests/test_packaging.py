"""The wheel holds what runs, types and embedded weights, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="hatchling is a development dependency")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_every_module_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "carl_cli").rglob("*.py")}
    assert modules <= names
    assert "carl_cli/py.typed" in names


def test_embedded_weights_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    shipped = [path for path in (ROOT / "weights").rglob("*") if path.is_file()]
    assert shipped
    for path in shipped:
        inside = f"carl_cli/_weights/{path.relative_to(ROOT / 'weights')}"
        assert wheel.read(inside) == path.read_bytes(), inside


@pytest.mark.parametrize("folder", ["training", "protocols"])
def test_examples_byte_for_byte(folder: str, wheel: zipfile.ZipFile) -> None:
    shipped = list((ROOT / "examples" / folder).glob("*.toml"))
    assert shipped
    for path in shipped:
        inside = "_examples" if folder == "training" else "_protocols"
        assert wheel.read(f"carl_cli/{inside}/{path.name}") == path.read_bytes(), path.name


def test_nothing_else_is_packed(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"carl_cli"}


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (folder,) = {n.split("/")[0] for n in wheel.namelist() if ".dist-info/" in n}
    entry_points = wheel.read(f"{folder}/entry_points.txt").decode()
    assert "carl = carl_cli.cli.entry:main" in entry_points
    metadata = wheel.read(f"{folder}/METADATA").decode().splitlines()
    assert "License-Expression: Apache-2.0" in metadata
    assert [line for line in metadata if line.startswith("Requires-Python")] == [
        "Requires-Python: <3.14,>=3.10"
    ]
    assert b"Apache License" in wheel.read(f"{folder}/licenses/LICENSE")


def test_constraints_pin_every_dependency() -> None:
    """Set-up is repeatable only if no requirement, nor one of theirs, is left to chance."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(line.split("==")[0]) for line in text.splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = closure(Requirement(line) for group in groups for line in group)
    assert len(needed) > 60
    assert needed - pinned == set()


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """Names of what is wanted here and of all that it needs, as far as it is installed."""
    found, left = set(), {(r.name, frozenset(r.extras)) for r in wanted if holds(r, frozenset())}
    while left:
        name, extras = left.pop()
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            lines = []
        new = {Requirement(line) for line in lines}
        found.add((name, extras))
        left |= {(r.name, frozenset(r.extras)) for r in new if holds(r, extras)} - found
    return {canonicalize_name(name) for name, _ in found}


def holds(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


def test_a_requirement_that_is_not_pinned_would_be_seen() -> None:
    assert "pluggy" in closure([Requirement("pytest")])
    assert "pytest" not in closure([Requirement("pytest; python_version < '3'")])


CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # under other names there


def test_the_conda_recipe_asks_for_what_the_wheel_does() -> None:
    recipe = yaml.safe_load((ROOT / "containers/conda/recipe.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [Requirement(line) for line in project["dependencies"]]
    expected = {f"{CONDA.get(r.name, r.name.lower())} {r.specifier}" for r in needed}
    run = set(recipe["requirements"]["run"])
    python = "".join(sorted(project["requires-python"].split(","), reverse=True))
    assert run - expected == {f"python {python.replace('<', ',<')}"}
    assert expected <= run
    assert recipe["build"]["python"]["entry_points"] == ["carl = carl_cli.cli.entry:main"]

"""The recipe for a release: what names the version agrees, and a bump keeps it so."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import loaded

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return loaded(ROOT / ".ci" / "release.py")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of what a bump reads and writes, with one release and one piece of news."""
    conda = "containers/conda/recipe.yaml"
    for name in ("pyproject.toml", "CITATION.cff", "carl_cli/__init__.py", conda):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/changelog.md.jinja", tmp_path / ".ci")
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d/README.md").write_text("how")
    (tmp_path / "changelog.d/+dark.fixed.md").write_text("Black images are read.\n")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [0.0.1] - 2020-01-02\n\n- a\n"
    )
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null")
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=folder, check=True, text=True, capture_output=True).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "x")


def test_a_bump_and_its_check(recipe: ModuleType, checkout: Path) -> None:
    pytest.importorskip("towncrier", reason="towncrier is a development dependency")
    with pytest.raises(SystemExit, match=r"name versions .*, 0\.0\.1"):
        recipe.check(checkout)
    recipe.bump(checkout, "7.8.9")
    changelog = (checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    expected = (
        r"# Changelog\n\n## \[Unreleased\]\n\n## \[7\.8\.9\] - \d{4}-\d\d-\d\d\n\n### Fixed\n\n"
        r"- Black images are read\.\n\n## \[0\.0\.1\] - 2020-01-02\n\n- a\n"
    )
    assert re.fullmatch(expected, changelog), changelog
    assert "date-released" in (checkout / "CITATION.cff").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="uncommitted"):
        recipe.check(checkout)
    commit(checkout)
    assert recipe.check(checkout) == "7.8.9"
    git(checkout, "tag", "v7.8.9")
    with pytest.raises(SystemExit, match=r"v7\.8\.9 is tagged already"):
        recipe.check(checkout)


def test_news_that_is_left_stops_a_release(recipe: ModuleType, checkout: Path) -> None:
    pytest.importorskip("towncrier", reason="towncrier is a development dependency")
    recipe.bump(checkout, "7.8.9")
    (checkout / "changelog.d/+late.added.md").write_text("Late.")
    with pytest.raises(SystemExit, match=r"not in CHANGELOG\.md: \+late\.added\.md"):
        recipe.check(checkout)


@pytest.mark.parametrize("version", ["0.0.9", "0.2", "v0.3.0"])
def test_versions_only_grow(recipe: ModuleType, checkout: Path, version: str) -> None:
    with pytest.raises(SystemExit, match="is not a version after"):
        recipe.bump(checkout, version)


def test_package_citation_and_conda_recipe_name_one_version(recipe: ModuleType) -> None:
    package, citation, conda, _ = recipe.versions(ROOT)
    assert package == citation == conda


def test_workflows_make_what_there_is() -> None:
    """Each workflow step that calls make names a target, and CI does what .ci/run does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    workflows = {
        p.name: p.read_text(encoding="utf-8") for p in (ROOT / ".github/workflows").glob("*.yml")
    }
    made = {name: set(re.findall(r"run: make ([a-z-]+)", text)) for name, text in workflows.items()}
    assert set().union(*made.values()) <= targets
    local = set(
        re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {"lint", "test"} <= local <= made["ci.yml"]


def test_workflows_try_each_python_that_is_supported() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()  # type: ignore[union-attr]
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    tried = re.search(r"python: \[(.*)\]", text)
    assert tried is not None
    assert re.findall(r"3\.(\d+)", tried[1]) == [str(n) for n in range(int(low), int(high))]

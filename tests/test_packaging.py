"""The wheel holds what runs, types and embedded weights, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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


def test_nothing_else_is_packed(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"carl_cli"}


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (folder,) = {n.split("/")[0] for n in wheel.namelist() if ".dist-info/" in n}
    entry_points = wheel.read(f"{folder}/entry_points.txt").decode()
    assert "carl = carl_cli.cli.app:main" in entry_points
    metadata = wheel.read(f"{folder}/METADATA").decode().splitlines()
    assert "License-Expression: Apache-2.0" in metadata
    assert [line for line in metadata if line.startswith("Requires-Python")] == [
        "Requires-Python: <3.14,>=3.10"
    ]
    assert b"Apache License" in wheel.read(f"{folder}/licenses/LICENSE")


def test_constraints_pin_every_dependency() -> None:
    """Set-up is repeatable only if no requirement is left to chance."""
    text = (ROOT / "constraints.txt").read_text()
    pinned = {line.split("==")[0].lower() for line in text.splitlines() if "==" in line}
    metadata = (ROOT / "pyproject.toml").read_text()
    for name in (
        "torch",
        "numpy",
        "simpleitk",
        "h5py",
        "pydicom",
        "nibabel",
        "typer",
        "huggingface-hub",
        "pytest",
    ):
        assert name in pinned
        assert name.replace("-", "_") in metadata.lower()
    assert "\ntorch==2.13.0\n" in text

"""The examples run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.model.coarse import attention_of
from carl_cli.model.network import build_network
from carl_cli.training.config import load_config
from carl_cli.weights.folder import read_config
from carl_cli.workflows.demo import DemoFiles, write_phantom
from carl_cli.workflows.phantom import make_phantom
from examples import retina
from tests.cli.weights_folder import untrained_weights

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_python_api(tmp_path: Path) -> None:
    """SimpleITK applies the written transform: the same point goes where the example says."""
    files = DemoFiles.within(tmp_path)
    write_phantom(make_phantom(voxel_mm=12.0), files)
    weights = untrained_weights(tmp_path / "weights")
    arguments = [files.fixed, files.moving, tmp_path / "results", weights]
    command = [sys.executable, EXAMPLES / "python_api.py", *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    start, end = (np.array(line.split(), float) for line in re.findall(r"\[(.*?)\]", printed))
    transform = sitk.ReadTransform(str(tmp_path / "results" / "forward.h5"))
    np.testing.assert_allclose(transform.TransformPoint(start.tolist()), end, atol=0.02)
    warped = sitk.ReadImage(str(tmp_path / "results" / "warped.nii.gz"))
    assert warped.GetSize() == sitk.ReadImage(str(files.fixed)).GetSize()


def test_vessels_of_a_retina() -> None:
    """Curves that branch; what `retina.py` prints of them."""
    y, x = np.mgrid[-1:1:280j, -1.1:1.1:308j]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    curves = [np.sin(k * angle + bend * radius + k) for k, bend in ((3, 4), (4, -5), (7, 3))]
    thin = np.abs(curves) < 0.04 * np.array([3, 4, 7]).reshape(-1, 1, 1) / (1 + 4 * radius)
    vessels = 255.0 * (thin.any(axis=0) & (radius > 0.12) & (radius < 0.8))
    before, after, error_before, error_after = retina.registered(vessels)
    assert before < 0.3
    assert after > 0.8
    assert error_before > 30
    assert error_after < 2


def cells() -> list[str]:
    """The code of the notebook, cell by cell."""
    notebook = json.loads((EXAMPLES / "first_registration.ipynb").read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def test_the_code_of_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell after cell, with a small network."""
    write_phantom(make_phantom(voxel_mm=12.0), DemoFiles.within(tmp_path))
    weights = untrained_weights(tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells():
        code = cell.replace('"carl-base"', repr(str(weights))).replace('"demo-output"', '"."')
        exec(code, names)
    warped = sitk.GetArrayFromImage(sitk.ReadImage("warped.nii.gz"))
    np.testing.assert_array_equal(warped, names["result"].warped.array)
    assert names["labels"].array.shape == warped.shape


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands(tmp_path: Path) -> None:
    """In a kernel; the result shows its picture."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    (tmp_path / "demo-output").mkdir()
    write_phantom(make_phantom(voxel_mm=8.0), DemoFiles.within(tmp_path / "demo-output"))
    notebook = nbformat.read(EXAMPLES / "first_registration.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    shown = [
        o for c in notebook.cells for o in c.get("outputs", []) if "text/html" in o.get("data", {})
    ]
    assert len(shown) == 1
    assert "data:image/png;base64" in shown[0]["data"]["text/html"]
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    "path", sorted((EXAMPLES / "training").glob("*.toml")), ids=lambda p: p.stem
)
def test_training_configs_are_sound(path: Path) -> None:
    """Read and checked as `carl train` does before it starts; named after their file."""
    assert load_config(path).name == path.stem


def test_the_displacement_network_is_no_smaller_than_the_default_one() -> None:
    """What stands beside carl-base must not fail for want of parameters."""
    default = read_config(EXAMPLES.parent / "weights" / "carl-base").model
    other = load_config(EXAMPLES / "training" / "displacement.toml").model
    ours, theirs = (sum(p.numel() for p in build_network(m).parameters()) for m in (default, other))
    assert theirs >= ours
    assert attention_of(build_network(other)) is None

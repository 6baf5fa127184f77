"""The examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.model.network import attention_of, build_network
from carl_cli.training.config import load_config
from carl_cli.weights.folder import read_config
from carl_cli.workflows.demo import DemoFiles, write_phantom
from carl_cli.workflows.phantom import make_phantom
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

"""A study of 32-voxel images, and the Slurm of this machine if it has one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from carl_cli.io.images.files import Image, write_image
from tests.batch.conftest import Study, batch_weights  # noqa: F401 (a fixture)
from tests.cli.conftest import Carl, carl  # noqa: F401 (a fixture)
from tests.conftest import make_grid, smooth_value

SCRIPT = "as root, tests/batch/slurm/install_slurm.sh starts one (make test-cluster)"


@pytest.fixture
def study(tmp_path: Path, batch_weights: Path, carl: Carl) -> Study:  # noqa: F811
    folder = tmp_path / "study"
    folder.mkdir()
    for k, name in enumerate("abcd"):
        grid = make_grid((32, 31 + k, 30), (2.0, 2.0, 2.0 + k / 4), (float(k), 0.0, -float(k)))
        values = smooth_value(grid.points_mm()).astype(np.float32)
        write_image(folder / f"{name}.nii.gz", Image(values, grid))
    return Study(folder, batch_weights, carl)


@pytest.fixture(scope="session")
def slurm_cores() -> int:
    """Cores of the cluster's only node; skips without a cluster that answers."""
    if shutil.which("sinfo") is None:
        pytest.skip(f"Slurm is not installed: {SCRIPT}")
    asked = subprocess.run(
        ["sinfo", "--noheader", "--format=%D|%T|%c", "--partition=urgent"],
        capture_output=True,
        text=True,
    )
    if asked.returncode or not asked.stdout.strip():
        pytest.skip(f"no cluster for tests answers ({asked.stderr.strip()}): {SCRIPT}")
    nodes, state, cores = asked.stdout.split()[0].split("|")
    if nodes != "1" or state.strip("*") in ("down", "drained", "unknown"):
        pytest.skip(f"the cluster has {nodes} nodes, {state}: {SCRIPT}")
    return int(cores)

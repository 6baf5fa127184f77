"""`carl` as a process of its own, because huggingface_hub reads its variables at import."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest

from carl_cli.cli.app import main
from tests.conftest import REPOSITORY
from tests.weights.forks import Forks, Outcome, started
from tests.weights.hub import Hub, Repository, serving

MODEL_BYTES = b"tensors" * 40_000
Carl = Callable[..., Outcome]


def weights_files(model: bytes = MODEL_BYTES) -> dict[str, bytes]:
    """A repository's files: what `download` looks at, and one that nobody asked for."""
    digest = hashlib.sha256(model).hexdigest()
    config = {
        "format_version": 1,
        "family": "carl",
        "licence": "CC0-1.0",
        "preprocess": {},
        "files": {"model.safetensors": digest},
    }
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": model,
        "README.md": b"# net",
        "pytorch_model.bin": b"not wanted",
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({"org/net": Repository(weights_files())})) as running:
        yield running


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with started(tmp_path_factory.mktemp("forks"), REPOSITORY) as running:
        yield running


@pytest.fixture
def carl(hub: Hub, forks: Forks, tmp_path: Path) -> Carl:
    """`carl("weights", …, HF_TOKEN="…")` against the hub, with caches of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}

    def run(*args: object, user: int = 0, terminal: str | None = None, **variables: str) -> Outcome:
        own = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            # Its upload protocol has servers of its own: here large files go as LFS has them.
            "HF_HUB_DISABLE_XET": "1",
            "CARL_HOME": str(tmp_path / "carl"),
        }
        environment = {**inherited, **own, **variables}
        return forks.run([str(arg) for arg in args], environment, tmp_path, user, terminal)

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB, where one can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    order = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if which("mount") is None or subprocess.run(order, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def carl_here(capsys: pytest.CaptureFixture[str]) -> Carl:
    """`carl` inside this process, which has loaded torch already."""

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, out, err)

    return run

"""`carl` as a process of its own, because huggingface_hub reads its variables at import."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carl_cli.cli.app import main
from tests.conftest import REPOSITORY
from tests.weights.hub import Hub, Repository, serving

MODEL_BYTES = b"tensors" * 40_000
Carl = Callable[..., "subprocess.CompletedProcess[str]"]


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


@pytest.fixture
def carl(hub: Hub, tmp_path: Path) -> Carl:
    """`carl("weights", …, HF_TOKEN="…")` against the hub, with caches of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}

    def run(*args: object, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "CARL_HOME": str(tmp_path / "carl"),
            "PYTHONPATH": str(REPOSITORY),
        }
        return subprocess.run(
            [sys.executable, "-m", "carl_cli.cli.app", *map(str, args)],
            env={**inherited, **own, **variables},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )

    return run


@pytest.fixture
def carl_here(capsys: pytest.CaptureFixture[str]) -> Carl:
    """`carl` inside this process, which has loaded torch already."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return subprocess.CompletedProcess(args, stop.value.code, out, err)

    return run

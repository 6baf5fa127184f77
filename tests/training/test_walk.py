"""The lines of docs/how-to/training.md, one after the other, on small data."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from carl_cli.cli.app import main
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from tests.cli.weights_folder import untrained_weights
from tests.weights.conftest import Carl, carl, forks, hub  # noqa: F401 (fixtures)
from tests.weights.hub import Hub

DOCS = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "training.md"
PUSHED = "org/abdomen-ct"  # where the page has ORG
CASES = ("0001", "0002", "0199", "0200")


def lines() -> list[str]:
    """The commands of the blocks that are marked as the walk, without their comments."""
    blocks = re.findall(r"```bash walk\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return [line.split("#")[0].strip() for line in "".join(blocks).splitlines()]


def write_hospital(folder: Path) -> None:
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij"))
    grid = Grid((24,) * 3, (4.0,) * 3, (0.0,) * 3, tuple(np.eye(3).flatten()))
    for kind in ("ct", "seg"):
        (folder / kind).mkdir()
    for k, name in enumerate(CASES):
        ball = np.linalg.norm(points - 0.05 * k, axis=0) < 0.6
        values = np.where(ball, 60 + 200 * points[0], -1000).astype(np.int16)
        write_image(folder / "ct" / f"{name}.nii.gz", Image(values, grid))
        write_image(folder / "seg" / f"{name}.nii.gz", Image(ball.astype(np.uint8), grid))


def test_the_walk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    carl: Carl,  # noqa: F811
    hub: Hub,  # noqa: F811
) -> None:
    """As it stands, but for fewer steps, smaller weights to begin with, and the hub on loopback."""
    monkeypatch.chdir(tmp_path)
    write_hospital(tmp_path)
    untrained_weights(tmp_path / "carl-small")
    walked = lines()
    assert len(walked) == 9
    for line in walked:
        words = shlex.split(line)[1:]
        if "--from" in words:
            words[words.index("carl-base")] = "carl-small"
            words += ["--steps", "2", "--max-voxels", "16384"]
        if words[:2] == ["train", "small.toml"]:
            shorten(tmp_path / "small.toml")
        if words[:2] == ["weights", "push"]:
            done = carl(*words[:-1], PUSHED, HF_TOKEN=hub.token)
            assert done.returncode == 0, done.stderr
            continue
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert not stop.value.code, line
    assert "dice" in json.dumps(json.loads((tmp_path / "scores.json").read_text()))
    pushed = hub.repositories[PUSHED]
    ours = (tmp_path / "runs/ct/weights/model.safetensors").read_bytes()
    assert pushed.tree(pushed.revisions["main"])["model.safetensors"] == ours


def shorten(path: Path) -> None:
    text = re.sub(r"(?m)^steps = \d+", "steps = 1", path.read_text())
    path.write_text(re.sub(r"(?m)^validation_pairs = \d+", "validation_pairs = 1", text))

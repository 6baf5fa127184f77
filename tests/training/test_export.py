"""Configs, the command line, and the weights folder that a run becomes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from carl_cli.errors import InputError, UsageError, WeightsError
from carl_cli.io.images.files import write_image
from carl_cli.io.transforms.files import read_transform
from carl_cli.model.network import build_network
from carl_cli.training.config import TrainConfig, load_config, whole_model
from carl_cli.training.export import export
from carl_cli.training.loop import train
from carl_cli.training.run_folder import load_state
from carl_cli.training.start import built, initialised
from carl_cli.weights.folder import WeightsConfig, load_weights
from carl_cli.workflows.phantom import make_phantom

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "training"
MATCH = {"kind": "correspondence", "loss": {"attention": 1.0, "queries": 50}, "steps": 2}


def test_an_exported_folder_is_the_averaged_network(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    keeping = {"validation_pairs": 1, "validate_steps": 2}
    train(make_config([MATCH], keeping=keeping), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "weights", name="mine")
    weights = load_weights(tmp_path / "weights")
    best = load_state(tmp_path / "run", "best")
    for name, value in weights.network.state_dict().items():
        torch.testing.assert_close(value, best["average"][name], rtol=1e-3, atol=1e-6)
    assert weights.config.name == "mine"
    assert weights.config.provenance["steps"] == 2
    assert weights.config.provenance["validation"] == best["scores"]
    card = (tmp_path / "weights" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "random shapes" in card
    assert f"{best['scores']['dice']:.4f}" in card
    assert "s: correspondence, 2 steps at 16×16×16, batch 1, Adam 0.002" in card


def test_a_folder_without_a_run_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        export(tmp_path, tmp_path / "weights")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_examples_are_valid(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    # Raises where what it starts from has another architecture.
    initialised(built(config, 0), config)


@pytest.mark.parametrize("name", ["base", "base-2d"])
def test_the_config_of_the_embedded_weights_makes_such_weights(name: str) -> None:
    config = load_config(EXAMPLES / f"{name}.toml")
    shipped = load_weights(EXAMPLES.parents[1] / "weights" / f"carl-{name}").config
    trained = whole_model(config, len(config.stages) - 1)
    unused = "unet", "window", "refine_symmetric"
    known = {part: getattr(trained, part) for part in unused}
    assert trained == shipped.model.model_copy(update=known)
    rules = WeightsConfig.model_validate(
        config.weights | {"name": name, "model": trained, "preprocess": shipped.preprocess}
    )
    assert (rules.alignment, rules.instance) == (shipped.alignment, shipped.instance)


def test_a_start_of_another_symmetry_says_what_to_set() -> None:
    config = load_config(EXAMPLES / "refinement.toml")
    model = config.model.model_copy(update={"coarse_symmetric": False})
    with pytest.raises(WeightsError, match="another architecture") as caught:
        initialised(build_network(model), config)
    assert caught.value.hint == "set coarse_symmetric = true"


SHORT = """
name = "x"
[[stages]]
name = "one"
steps = 2
shape_zyx = [16, 16, 16]
loss = { dice = 1.0 }
"""
TINY = """
[model]
coarse_scale = 2
refine_scales = [1]
encoder = { width = 4, blocks = 1, padding = 1 }
unet = { down = [4], up = [4] }
[keeping]
validation_pairs = 0
"""


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("steps = 2", "step = 2"), "stages.0.step"),
        (("dice = 1.0", "dice = 0.0"), "stages.0.loss"),
        (("dice = 1.0", "dice = 1.0, metric = 'mse'"), "metric 'mse'"),
        (("[[stages]]", "[model]\nrefine_nested = 2\n[[stages]]"), "refine_nested"),
        (("steps = 2", "steps = 2\nsynthesis = { noise = 3 }"), "noise"),
        (('name = "x"', 'name = "x"\nseeds = 1'), "seeds"),
    ],
)
def test_a_wrong_key_is_named(change: tuple[str, str], place: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(SHORT.replace(*change))
    with pytest.raises(UsageError, match=place):
        load_config(path)
    path.write_text(SHORT)
    assert load_config(path).stages[0].steps == 2


def test_the_command_trains_stops_resumes_and_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from carl_cli.cli.app import main

    config = tmp_path / "x.toml"
    config.write_text(SHORT + TINY)
    out, weights = str(tmp_path / "run"), str(tmp_path / "weights")

    def carl(*arguments: str) -> int | str | None:
        with pytest.raises(SystemExit) as stop:
            main(["train", *arguments])
        return stop.value.code

    assert carl(str(config), "--out", out, "--threads", "1") == 0
    assert carl(str(config), "--out", out, "--threads", "1") == 2
    assert "--resume" in capsys.readouterr().err
    assert carl("--resume", str(config), "--out", out, "--threads", "1") == 0
    assert carl("export", out, "-o", weights) == 0
    assert load_weights(weights).config.name == "x"
    assert carl(str(tmp_path / "none.toml")) == 3


def test_the_small_example_becomes_weights_that_register(tmp_path: Path) -> None:
    from carl_cli.cli.app import main

    text = (EXAMPLES / "small.toml").read_text()
    for line in ("steps = 200\n", "steps = 100\n", "validation_pairs = 4\n"):
        assert line in text
        text = text.replace(line, line.split("=")[0] + "= 1\n")
    (tmp_path / "small.toml").write_text(text)
    phantom = make_phantom(0, 9.0)
    files = [tmp_path / f"{end}.nii.gz" for end in ("fixed", "moving")]
    for file, image in zip(files, (phantom.fixed, phantom.moving), strict=True):
        write_image(file, image)
    run, weights, transform = (str(tmp_path / n) for n in ("run", "weights", "T.h5"))
    for command in (
        ["train", str(tmp_path / "small.toml"), "--out", run, "--threads", "1"],
        ["train", "export", run, "-o", weights],
        ["register", *map(str, files), "-o", transform, "--weights", weights, "--threads", "1"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert not stop.value.code
    shape = load_config(EXAMPLES / "small.toml").stages[-1].shape_zyx
    assert load_weights(weights).config.preprocess.max_voxels == math.prod(shape)
    centre = phantom.fixed.grid.points_mm().reshape(-1, 3).mean(axis=0)
    # Hardly trained: that the point stays in the field of view is all that can be asked.
    reach = np.ptp(phantom.moving.grid.corners_mm(), axis=0).max() / 2
    assert np.linalg.norm(read_transform(transform)(centre) - centre) < reach


def test_rendered_pairs_need_torch_alone(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(SHORT + TINY)
    absent = ["SimpleITK", "itk", "matplotlib", "safetensors", "huggingface_hub", "scipy"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
    code += "from carl_cli.cli.app import main; main()"
    command = [sys.executable, "-c", code, "train", "x.toml", "--resume", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_state(tmp_path / "runs" / "x", "last")["at"]["total"] == 2

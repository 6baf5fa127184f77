"""`carl train --from`: weights trained further on images of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carl_cli.cli.app import main
from carl_cli.errors import UsageError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.model.network import ModelConfig, build_network
from carl_cli.preprocessing.rule import PreprocessRule
from carl_cli.training.finetuning import FineTuning
from carl_cli.training.start import parts
from carl_cli.training.validation import alignment_of
from carl_cli.weights.files import sha256_of
from carl_cli.weights.folder import (
    InstanceDefaults,
    WeightsConfig,
    load_weights,
    read_config,
    save_weights,
)
from carl_cli.weights.locate import locate
from tests.training.conftest import TINY_MODEL
from tests.training.test_loop import records

RULE = PreprocessRule(grid_rule="physical", multiple_of=8, max_voxels=32**3)
STRETCH = PreprocessRule(grid_rule="stretch", shape_zyx=(32, 32, 32))
UNICARL: dict[str, Any] = {
    "coarse_scale": 4,
    "encoder": {"width": 16, "blocks": 1, "padding": 8, "dilations": (1, 1), "halvings": 2},
    "refine_scales": (2, 1),
    "refine_unets": (4, 1),
    "refine_blurs": (3, 2),
    "extrapolation": "reflected",
    "unet": {"down": (4,), "up": (4,)},
}
FAMILIES = {
    "carl": ({**TINY_MODEL, "coarse_symmetric": True, "refine_symmetric": True}, RULE),
    "unigradicon": ({**TINY_MODEL, "coarse": "unet", "refine_scales": (1, 1)}, STRETCH),
    "unicarl": (UNICARL, STRETCH),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three balls with their segmentations, in two folders."""
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij"))
    generator = np.random.default_rng(0)
    for folder in ("ct", "seg"):
        (tmp_path / folder).mkdir()
    for k in range(3):
        grid = Grid((24,) * 3, (3.0,) * 3, (10.0 * k, 0.0, 0.0), tuple(np.eye(3).flatten()))
        ball = np.linalg.norm(points - 0.1 * k, axis=0) < 0.5 + 0.1 * k
        values = np.where(ball, 60, -1000) + generator.normal(0, 20, ball.shape)
        write_image(tmp_path / "ct" / f"{k}.nii.gz", Image(values.astype(np.int16), grid))
        write_image(tmp_path / "seg" / f"{k}.nii.gz", Image(ball.astype(np.uint8), grid))
    return tmp_path / "ct"


def weights(folder: Path, family: str) -> Path:
    model, rule = FAMILIES[family]
    described = ModelConfig.model_validate(model)
    torch.manual_seed(0)
    config = WeightsConfig(
        name="mine",
        family=family,  # type: ignore[arg-type]
        licence="CC0-1.0",
        model=described,
        preprocess=rule,
        instance=InstanceDefaults(sigma=2, steps=7, metric="auto" if family == "carl" else "lncc"),
    )
    save_weights(folder, build_network(described), config, "A card.\n")
    return folder


def carl(*words: str | Path) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


@pytest.mark.parametrize("family", FAMILIES)
def test_one_line_makes_weights_of_weights(family: str, images: Path, tmp_path: Path) -> None:
    source, run = weights(tmp_path / "source", family), tmp_path / "run"
    words = ["train", "--from", source, images, "--segmentations", images.with_name("seg")]
    assert carl(*words, "--steps", "4", "--out", run, "--threads", "1") == 0
    before, after = load_weights(source), load_weights(run / "weights")
    assert after.config.name == "run"
    for field in ("family", "licence", "instance", "preprocess", "model"):
        assert getattr(after.config, field) == getattr(before.config, field), field
    made_from = after.config.provenance["made_from"]
    assert made_from == {"name": "mine", "sha256": sha256_of(source / "model.safetensors")}
    card = (run / "weights" / "README.md").read_text()
    assert made_from["sha256"] in card
    assert str(source) in card
    assert {"dice", "similarity"} <= records(run)[0].keys()
    first = records(run, "validation")[0]
    assert first["step"] == 0  # what is to be improved on
    assert 0 < first["dice_before"] < 1


def test_refinements_alone_learn_on_a_small_grid(images: Path, tmp_path: Path) -> None:
    source, run = weights(tmp_path / "source", "carl"), tmp_path / "run"
    words = ["--steps", "3", "--learn", "refinements", "--max-voxels", "4096", "--held-out", "0"]
    assert carl("train", "--from", source, images, "--out", run, "--threads", "1", *words) == 0
    coarse, *refinements = zip(
        *(parts(load_weights(f).network) for f in (source, run / "weights")), strict=True
    )
    assert same(*coarse)
    assert not all(same(*pair) for pair in refinements)
    config = json.loads((run / "weights" / "config.json").read_text())
    assert config["preprocess"]["max_voxels"] == 32**3  # as the source's, for use
    assert config["provenance"]["training"]["preprocess"]["max_voxels"] == 4096


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.allclose(ours[key], theirs[key], atol=1e-7) for key in ours)


def test_the_weights_of_the_package_can_be_trained_further(images: Path, tmp_path: Path) -> None:
    """Their metric follows the pair; images of one set are of one contrast."""
    config = FineTuning("carl-base", images, tmp_path / "cache").config("mine")
    (stage,) = config.stages
    assert (stage.loss.metric, stage.loss.sigma, config.initial) == ("lncc", 2, "carl-base")
    assert alignment_of(config, stage) == read_config(locate("carl-base")).alignment
    with pytest.raises(UsageError, match="no refinements"):
        FineTuning("carl-base", images, tmp_path / "cache", learn="refinements").config("mine")
    with pytest.raises(UsageError, match="2D"):
        FineTuning("carl-base-2d", images, tmp_path / "cache").config("mine")


def test_it_ends_when_nothing_is_gained(images: Path, tmp_path: Path) -> None:
    """With a rate that changes nothing, the first measurement stays the best one."""
    source, run = weights(tmp_path / "source", "carl"), tmp_path / "run"
    words = ["--steps", "40", "--patience", "2", "--learning-rate", "1e-12", "--max-voxels", "4096"]
    assert carl("train", "--from", source, images, "--out", run, "--threads", "1", *words) == 0
    assert len(records(run)) == 4  # two steps between measurements


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--held-out", "2"], "too few are left"),
        (["--learn", "everything"], "--learn"),
        (["--modality", "pet"], "--modality"),
    ],
)
def test_what_can_t_be_done_is_said(
    words: list[str],
    told: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = weights(tmp_path / "source", "carl")
    assert carl("train", "--from", source, images, "--out", tmp_path / "run", *words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run" / "weights").exists()


def test_examples_are_listed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert carl("train", "example") == 0
    assert "paper-abdomen: Abdomen1k" in capsys.readouterr().out
    assert carl("train", "example", "small") == 0
    assert 'name = "small"' in (tmp_path / "small.toml").read_text()
    assert carl("train", "example", "small") == 7
    assert carl("train", "example", "none") == 2

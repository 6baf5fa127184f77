"""The configs of the paper's experiments: what the paper says, and that they run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.preprocessing.rule import PreprocessRule
from carl_cli.training.config import TrainConfig, load_config, model_at
from carl_cli.training.loop import train
from carl_cli.training.start import example_configs
from tests.training.test_loop import records

PAPER = [path for path in example_configs() if path.stem.startswith("paper-")]
SMALL = {"encoder": {"width": 4, "blocks": 1, "padding": 2}, "unet": {"down": (4, 8), "up": (4, 8)}}


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_the_paper_is_the_paper(path: Path) -> None:
    """Sec. 6: Eq. 16, Eq. 17 for 1,500 steps, Eq. 18 for 50,000, λ 1.5, Adam with 1e-4."""
    config = load_config(path)
    first, second, *more = config.stages
    assert [(s.steps, s.loss.regulariser, s.loss.regularity) for s in (first, second)] == [
        (1500, "diffusion", 1.5),
        (50000, "gradicon", 1.5),
    ]
    assert [stage.extra_step for stage in more] == [True] * path.stem.endswith("extra-step")
    for stage in config.stages:
        assert (stage.learning_rate, stage.betas, stage.schedule) == (
            1e-4,
            (0.9, 0.999),
            "constant",
        )
        assert (stage.loss.similarity, stage.loss.metric, stage.loss.sigma) == (1.0, "lncc", 4)
    assert (config.model.coarse_scale, config.model.encoder.width) == (4, 128)
    assert model_at(config, 1).refine_scales == (2, 1)
    assert config.keeping.average_decay == 0
    assert config.runtime.bfloat16 is False
    rule = PreprocessRule.model_validate(config.preprocess)
    assert rule.shape_zyx == first.shape_zyx
    if "copdgene" not in path.stem:
        assert (rule.intensity.ct_window, rule.intensity.lower_percentile) == (None, None)
        assert rule.intensity.upper_percentile == 100


def test_every_experiment_of_the_paper_has_a_config() -> None:
    names = {"abdomen", "abdomen-extra-step", "hcp", "copdgene", "ixi"}
    assert {path.stem for path in PAPER} == {f"paper-{name}" for name in names}


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_thirty_steps_at_reduced_size(path: Path, tmp_path: Path) -> None:
    config = reduced(load_config(path), tmp_path)
    assert train(config, tmp_path / "run") == "finished"
    found = records(tmp_path / "run")
    assert len(found) == 15 * len(config.stages)
    assert all(math.isfinite(record["loss"]) for record in found)
    for record in found:  # the sum of Eq. 17 and 18
        expected = record["similarity"] + 1.5 * record["regularity"]
        assert record["loss"] == pytest.approx(expected, rel=1e-5)


def reduced(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same recipe on 16³ with a tiny network and random images, half of 30 steps a stage."""
    values: dict[str, Any] = config.model_dump(mode="json")
    shape = (16, 16, 16)
    values["model"] |= SMALL
    values["preprocess"]["shape_zyx"] = shape
    for stage in values["stages"]:
        stage |= {"steps": 15, "shape_zyx": shape}
    values["keeping"] |= {"log_steps": 1, "validation_pairs": 1, "validate_steps": 20}
    values["runtime"] |= {"device": "cpu", "prefetch": False}
    values["data"] |= {"cache": str(folder / "cache")}
    values["data"]["sets"][0] |= {"images": str(written(folder, config)), "held_out": 1}
    return TrainConfig.model_validate(values)


def written(folder: Path, config: TrainConfig) -> Path:
    """Four images and a table of the columns that the config's own has."""
    generator = np.random.default_rng(0)
    grid = Grid((16,) * 3, (2.0,) * 3, (0.0,) * 3, tuple(np.eye(3).flatten()))
    for k in range(4):
        values = generator.normal(size=(16, 16, 16)).cumsum(0).cumsum(1) * 20 - 300
        write_image(folder / f"{k}.nii.gz", Image(values.astype(np.float32), grid))
    table = folder / "table.csv"
    if "copdgene" in config.name:
        table.write_text("fixed,moving\n0.nii.gz,1.nii.gz\n2.nii.gz,3.nii.gz\n1.nii.gz,3.nii.gz\n")
    else:
        table.write_text("image\n" + "".join(f"{k}.nii.gz\n" for k in range(4)))
    return table

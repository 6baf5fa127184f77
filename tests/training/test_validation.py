"""What is measured between steps: the map that the weights will give, alignment and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carl_cli.model.fields import voxels_per_unit
from carl_cli.model.network import ModelConfig, build_network
from carl_cli.preprocessing.rule import PreprocessRule
from carl_cli.progress import Stopwatch, silent
from carl_cli.registration.contexts import Pair as Images
from carl_cli.registration.maps import find_maps
from carl_cli.training.config import TrainConfig
from carl_cli.training.synthesis.pairs import Pair
from carl_cli.training.validation import alignment_of, validate
from carl_cli.weights.folder import AlignmentRule, Weights, WeightsConfig
from tests.training.conftest import TINY_MODEL

SIDE = 32
RULE = AlignmentRule(steps=6)


def balls() -> Pair:
    """Two balls of noise a few voxels apart; label 1 is the ball."""
    places = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
    draw = torch.Generator().manual_seed(0)
    images, labels = [], []
    for centre in (14, 18):
        inside = np.linalg.norm(places - centre, axis=0) < 8
        label = torch.from_numpy(inside.astype(np.int64))[None, None]
        images.append(label * (0.6 + 0.2 * torch.rand(label.shape, generator=draw)))
        labels.append(label)
    seen = torch.ones_like(labels[0], dtype=torch.bool)
    return Pair(*images, *labels, seen, seen, "same", True, None, None)


@dataclass
class One:
    """A source of one pair."""

    only: Pair

    def pair(self, index: int, /) -> Pair:
        return self.only

    def __len__(self) -> int:
        return 1


def dice(pair: Pair, phi_unit: Tensor) -> float:
    """Of the ball, the nearest voxel of the moving image taken."""
    scale = voxels_per_unit((SIDE,) * 3, False).view(1, 3, 1, 1, 1)
    z, y, x = (phi_unit * scale - 0.5).round().long().clamp(0, SIDE - 1)[0]
    fixed, warped = pair.fixed_labels[0, 0] > 0, pair.moving_labels[0, 0][z, y, x] > 0
    return float(2 * (fixed & warped).sum() / (fixed.sum() + warped.sum()))


def test_it_measures_the_map_that_registration_finds() -> None:
    torch.manual_seed(0)
    model = ModelConfig.model_validate({**TINY_MODEL, "refine_scales": ()})
    network, pair = build_network(model).eval(), balls()
    rule = PreprocessRule(grid_rule="physical")
    config = WeightsConfig(name="mine", model=model, preprocess=rule, alignment=RULE)
    weights = Weights(network, config, "here", "")
    images, watch = Images(pair.fixed, pair.moving), Stopwatch(silent)
    found = find_maps(images, weights, None, 0.5, False, None, watch, silent)
    aligned = dice(pair, found.forward.on_grid((SIDE,) * 3))
    with torch.no_grad():
        alone = dice(pair, network(pair.fixed, pair.moving).on_grid((SIDE,) * 3))
    assert aligned > alone + 0.05
    scores = validate(network, One(pair), 1, False, RULE)
    assert scores["dice"] == scores["score"] == pytest.approx(aligned, abs=1e-6)
    assert scores["dice_network"] == pytest.approx(alone, abs=1e-6)
    taken_as_it_is = validate(network, One(pair), 1, False, None)
    assert taken_as_it_is["dice"] == pytest.approx(alone, abs=1e-6)
    assert "dice_network" not in taken_as_it_is


@pytest.mark.parametrize(
    ("stage", "aligned"),
    [
        ({"loss": {"dice": 1.0}}, True),
        ({"loss": {"dice": 1.0}, "levels": 0}, False),  # not the grid that the rule is for
        ({"loss": {"attention": 1.0}, "kind": "correspondence"}, False),
    ],
)
def test_a_network_is_aligned_where_it_is_whole(
    stage: dict[str, Any], aligned: bool, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config([stage], weights={"alignment": {"steps": 6}})
    assert alignment_of(config, config.stages[0]) == (RULE if aligned else None)
    assert alignment_of(make_config([stage]), config.stages[0]) is None

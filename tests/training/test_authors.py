"""The objective against the authors' own losses, on the pairs and weights of the parity files.

VALUES: icon_registration 1.1.9, `carl.make_network_final(shape, dimension, diffusion)` with the
parity weights, in eval mode, after torch.manual_seed(0), called with (moving, fixed) and with
(fixed, moving): all_loss of both.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carl_cli.training.objective import Objective
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair
from carl_cli.training.tables import StageConfig
from tests.model.reference import CONFIGS, drawn_network, reference_outputs

VALUES = {}


def objective(name: str, regulariser: str, parity_dir: Path) -> float:
    loss = {"similarity": 1.0, "sigma": 4, "regularity": 1.5, "regulariser": regulariser}
    stage = StageConfig.model_validate({"name": "s", "steps": 1, "loss": loss})
    network = drawn_network(name, parity_dir)
    chance = Chance(0)
    chance.host_generator.manual_seed(0)  # the authors' noise
    outputs = reference_outputs(name, parity_dir)
    fixed, moving = (outputs[key].squeeze()[None, None] for key in ("fixed", "moving"))
    none, seen = torch.zeros_like(fixed, dtype=torch.long), torch.ones_like(fixed, dtype=torch.bool)
    pair = Pair(fixed, moving, none, none, seen, seen, "same", real=True)
    with torch.no_grad():
        found, _ = Objective(network, stage, CONFIGS[name])([pair], chance)
    return float(found)


@pytest.mark.parametrize("name", ["carl2d", "carl3d"])
def test_diffusion_is_the_mean_over_both_orders(name: str, parity_dir: Path) -> None:
    """Eq. 17 looks at one direction; the authors' code takes twice its similarity."""
    expected = sum(VALUES[f"{name}-diffusion"]) / 2
    assert objective(name, "diffusion", parity_dir) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["carl2d", "carl3d"])
def test_gradicon_is_that_of_the_authors(name: str, parity_dir: Path) -> None:
    """Eq. 18, in the order fixed → moving, with the same noise."""
    expected = VALUES[f"{name}-gradicon"][0]
    assert objective(name, "gradicon", parity_dir) == pytest.approx(expected, rel=1e-5)

"""The losses of the paper's configs, beside those of the authors' own code on the parity pairs.

tests/data/parity/objective.json holds what icon_registration 1.1.9 gave, in training mode:
python -m benchmarks.objective FOLDER.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from carl_cli.model.operators import Kept
from carl_cli.training.config import load_config, model_at
from carl_cli.training.objective import Objective
from carl_cli.training.start import example_configs
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair
from tests.model.reference import CONFIGS, drawn_network, reference_outputs

(PAPER,) = (path for path in example_configs() if path.stem == "paper-abdomen-extra-step")


@pytest.mark.parametrize(("name", "stage"), [("carl3d", 1), ("carl3d_extra_step", 2)])
def test_both_losses_are_those_of_the_authors_code(name: str, stage: int, parity_dir: Path) -> None:
    """Eq. 17 and 18, of the paper's network and of that of the authors' second training."""
    config = load_config(PAPER)
    described = model_at(config, stage)
    assert described == CONFIGS[name]
    stored = reference_outputs(name, parity_dir)
    fixed, moving = (stored[image].squeeze()[None, None] for image in ("fixed", "moving"))
    seen = torch.ones_like(fixed, dtype=torch.bool)
    pair = Pair(fixed, moving, seen.long(), seen.long(), seen, seen, "same", True, None, None)
    numbers = json.loads((parity_dir / "objective.json").read_text())[name]
    with torch.no_grad():
        # Training mode: batch norm sees one image at a time, as in the authors' code.
        maps = drawn_network(name, parity_dir).train().both_directions(fixed, moving)
        for number, expected in ((0, mean_of(numbers["diffusion"])), (stage, numbers["gradicon"])):
            objective = Objective(Kept(*maps), config.stages[number], described)
            loss, terms = objective([pair], Chance(0))
            for term, found in {"loss": loss, **terms}.items():
                assert float(found) == pytest.approx(expected[term], rel=1e-5), term


def mean_of(orders: list[dict[str, float]]) -> dict[str, float]:
    """Over both orders of a pair: the authors' first loss looks at one, ours at both."""
    return {term: sum(order[term] for order in orders) / 2 for term in orders[0]}

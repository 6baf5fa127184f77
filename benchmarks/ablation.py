"""What each part of carl-base brings: the same weights without it.

    python -m benchmarks.ablation [--voxels 64000] [--weights carl-base]

Nothing is trained again. Mean and lowest Dice, and folds in percent, without instance optimisation,
on the two brains of `carl demo`, each onto the other, and on the six pairs of lungs of
`benchmarks.validation`, all on a small grid.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.contest.pairs import SETS, Pair
from benchmarks.measure import table
from benchmarks.scopes import on_grid
from carl_cli.evaluation.truth import Truth
from carl_cli.io.images.files import read_image
from carl_cli.model.coarse import attention_of
from carl_cli.model.fields import DisplacementMap, Map
from carl_cli.model.network import ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.registration.register import register
from carl_cli.weights.folder import Weights, load_weights
from carl_cli.weights.locate import locate
from carl_cli.workflows.score import score

TRIED = {"people": "real brains", "lungs": "lungs"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data = os.environ.get("CARL_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--weights", default="carl-base")
    parser.add_argument("--voxels", type=int, default=64_000, help="of the grid, at most")
    parser.add_argument("--pairs", type=int, help="at most so many of each set")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    arguments = parser.parse_args()
    weights = on_grid(load_weights(locate(arguments.weights), "cpu"), arguments.voxels)
    for name, title in TRIED.items():
        folder = arguments.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        pairs = list(islice(SETS[name].make(arguments.data, folder), arguments.pairs))
        rows = [row(part, variant, pairs) for part, variant in variants(weights)]
        header = (f"{title}, {len(pairs)} pairs", "Dice", "lowest", "folds, %")
        print(table(f"at most {arguments.voxels} voxels", header, rows), flush=True)


def row(part: str, weights: Weights, pairs: list[Pair]) -> tuple[str, str, str, str]:
    dice, folded = zip(*(measured(weights, pair) for pair in pairs), strict=True)
    found = part, f"{np.mean(dice):.3f}", f"{min(dice):.3f}", f"{np.mean(folded):.4f}"
    print(*found, file=sys.stderr, flush=True)
    return found


class Still(Registrar):
    """The identity, in the place of a network."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.nothing = nn.Parameter(torch.zeros(1))  # it lies on a device, as any network

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        nowhere = fixed.new_zeros(1, fixed.dim() - 2, *fixed.shape[2:])
        return DisplacementMap(nowhere, self.align_corners)


def variants(weights: Weights) -> Iterator[tuple[str, Weights]]:
    """The weights as they are, then without each part."""
    model, alone = weights.config.model, weights.config.model_copy(update={"alignment": None})
    yield "carl-base", weights
    yield "without alignment: Ξ alone", replace(weights, config=alone)
    yield "without Ξ: alignment alone", replace(weights, network=Still(model.align_corners))
    changes = {
        "sharpened logits": {"encoder": model.encoder.model_copy(update={"sharpness": 1.0})},
        "smoothing where unsure": {"encoder": model.encoder.model_copy(update={"smoothing": 0})},
        "mutual inverse": {"coarse_symmetric": False},
    }
    for name, update in changes.items():
        yield f"Ξ alone, without {name}", changed(weights, model.model_copy(update=update))


def changed(weights: Weights, model: ModelConfig) -> Weights:
    """The same parameters in another network of the family, without the alignment, which hides what
    a part of the network brings."""
    network = build_network(model)
    ours, theirs = attention_of(network), attention_of(weights.network)
    assert ours is not None
    assert theirs is not None
    ours.load_state_dict(theirs.state_dict())
    config = weights.config.model_copy(update={"model": model, "alignment": None})
    return replace(weights, network=network, config=config)


def measured(weights: Weights, pair: Pair) -> tuple[float, float]:
    """Mean Dice, and folds in percent."""
    assert pair.fixed_labels is not None
    assert pair.moving_labels is not None
    fixed, moving = read_image(pair.fixed), read_image(pair.moving)
    truth = Truth(read_image(pair.fixed_labels), read_image(pair.moving_labels))
    found = score(fixed, moving, register(fixed, moving, weights), truth)
    assert found.mean_dice is not None
    assert found.folded_percent is not None
    return found.mean_dice, found.folded_percent


if __name__ == "__main__":
    main()

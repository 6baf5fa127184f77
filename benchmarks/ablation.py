"""What each addition of carl-base to the paper's network brings: the same weights without it.

    python -m benchmarks.ablation [--voxels 64000]

Nothing is trained again. Mean Dice and percentage of folded voxels over the six pairs of lungs of
`benchmarks.validation`, without instance optimisation, on a small grid.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import table
from benchmarks.scopes import on_grid
from carl_cli.evaluation.truth import Truth
from carl_cli.io.images.files import read_image
from carl_cli.model.coarse import attention_of
from carl_cli.model.network import ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.registration.register import register
from carl_cli.training.start import parts
from carl_cli.weights.folder import Weights, load_weights
from carl_cli.weights.locate import locate
from carl_cli.workflows.score import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data = os.environ.get("CARL_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--weights", default="carl-base")
    parser.add_argument("--voxels", type=int, default=64_000, help="of the grid, at most")
    arguments = parser.parse_args()
    weights = on_grid(load_weights(locate(arguments.weights), "cpu"), arguments.voxels)
    rows = []
    for name, variant in variants(weights):
        dice, folded = measured(variant, arguments.data / "lung_mr_lobes")
        rows.append((name, f"{np.mean(dice):.3f}", f"{min(dice):.3f}", f"{np.mean(folded):.4f}"))
        print(*rows[-1], flush=True)
    header = ("network", "Dice", "lowest", "folds, %")
    print(table(f"six pairs of lungs, at most {arguments.voxels} voxels", header, rows))


def variants(weights: Weights) -> Iterator[tuple[str, Weights]]:
    """The weights as they are, then without each addition, then without all but Ψ."""
    model = weights.config.model
    without: dict[str, dict[str, Any]] = {
        "sharpened logits": _looks(model, sharpness=1.0),
        "smoothing": _looks(model, smoothing=0),
        "window attention": {"window_scales": ()},
        "mutual inverse": {"coarse_symmetric": False, "refine_symmetric": False},
        "Ψ": {"refine_scales": ()},
    }
    yield "carl-base", weights
    for name, changes in without.items():
        yield f"without {name}", changed(weights, model.model_copy(update=changes))
    paper = {"window_scales": (), "coarse_symmetric": False, "refine_symmetric": False}
    paper |= _looks(model, sharpness=1.0, smoothing=0)
    yield "without all but Ψ", changed(weights, model.model_copy(update=paper))


def _looks(model: ModelConfig, **changes: Any) -> dict[str, Any]:
    """Of both matches, in the whole image and in windows."""
    return {
        "encoder": model.encoder.model_copy(update=changes),
        "window": model.window.model_copy(update=changes),
    }


def changed(weights: Weights, model: ModelConfig) -> Weights:
    """The same parameters in another network of the family."""
    network = build_network(model)
    ours, theirs = attention_of(network), attention_of(weights.network)
    assert ours is not None
    assert theirs is not None
    ours.load_state_dict(theirs.state_dict())
    for target, source in zip(_refinements(network), _refinements(weights.network), strict=False):
        target.load_state_dict(source.state_dict())
    config = weights.config.model_copy(update={"model": model})
    return replace(weights, network=network, config=config)


def _refinements(network: Registrar) -> list[Registrar]:
    return [part for part in parts(network)[1:] if any(True for _ in part.parameters())]


def measured(weights: Weights, folder: Path) -> tuple[list[float], list[float]]:
    """Mean Dice and folds in percent, pair by pair."""
    dice, folded = [], []
    names = [path.name.split(".")[0] for path in sorted(folder.glob("????.nii.gz"))]
    images = {n: read_image(folder / f"{n}.nii.gz") for n in names}
    labels = {n: read_image(folder / f"{n}_seg.nii.gz") for n in names}
    for a, b in [(a, b) for a in names for b in names if a != b]:
        result = register(images[a], images[b], weights)
        found = score(images[a], images[b], result, Truth(labels[a], labels[b]))
        assert found.mean_dice is not None
        assert found.folded_percent is not None
        dice.append(found.mean_dice)
        folded.append(found.folded_percent)
    return dice, folded


if __name__ == "__main__":
    main()

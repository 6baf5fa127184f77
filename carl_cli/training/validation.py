"""How good a network is on pairs that it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from carl_cli.model.fields import identity, jacobian_determinant, sample
from carl_cli.model.operators import Registrar
from carl_cli.model.similarity import lncc
from carl_cli.training.config import TrainConfig
from carl_cli.training.data import PairSource
from carl_cli.training.losses import to_voxels
from carl_cli.training.synthesis.pairs import Pair
from carl_cli.training.synthesis.warps import sample_labels
from carl_cli.training.tables import StageConfig

if TYPE_CHECKING:
    from carl_cli.weights.folder import AlignmentRule

Scores = dict[str, float]
SMALLEST_LABEL = 50  # voxels


def alignment_of(config: TrainConfig, stage: StageConfig) -> AlignmentRule | None:
    """How the weights' maps will be aligned, if the stage trains the network as it will be used."""
    rule = config.weights.get("alignment")
    if rule is None or stage.kind != "registration" or stage.levels is not None:
        return None
    from carl_cli.weights.folder import AlignmentRule

    return AlignmentRule.model_validate(rule)


@torch.no_grad()
def validate(
    network: Registrar,
    source: PairSource,
    count: int,
    align_corners: bool,
    alignment: AlignmentRule | None,
) -> Scores:
    """Means over the first `count` pairs, the network in eval mode, its map aligned by the rule:

    dice, dice_before (labels of 50 voxels or more), dice_network (without the alignment, where
    there is one), tre_voxels and tre_before (median error in the foreground, where known), lncc
    (loss), folds_percent. `score`, larger is better, is Dice where there are labels and 1 - LNCC
    loss where there are none.
    """
    collected: dict[str, list[float]] = {}
    for number in range(count):
        for name, value in _scores(network, source.pair(number), align_corners, alignment):
            collected.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in collected.items()}
    means["score"] = means.get("dice", 1 - means.get("lncc", 1.0))
    return means


def _scores(
    network: Registrar, pair: Pair, align_corners: bool, alignment: AlignmentRule | None
) -> Iterator[tuple[str, float]]:
    shape = pair.fixed.shape[2:]
    places = _places(network, pair, align_corners, alignment)
    voxels = {name: to_voxels(place, shape, align_corners) for name, place in places.items()}
    phi, still = voxels["dice"], voxels["dice_before"]
    determinant = jacobian_determinant(phi)
    yield "folds_percent", 100 * float((determinant <= 0).float().mean())
    if pair.contrast == "same":
        warped = sample(pair.moving, places["dice"], align_corners)
        yield "lncc", float(lncc(pair.fixed, warped))
    for name, place in voxels.items():
        dice = _dice(pair, place)
        if dice is not None:
            yield name, dice
    if pair.phi is not None and pair.valid is not None:
        where = (pair.valid & (pair.fixed_labels > 0))[0, 0]
        if bool(where.any()):
            yield "tre_voxels", _median_error(phi, pair.phi, where)
            yield "tre_before", _median_error(still, pair.phi, where)


def _places(
    network: Registrar, pair: Pair, align_corners: bool, alignment: AlignmentRule | None
) -> dict[str, Tensor]:
    """Maps fixed → moving on the fixed grid, unit coordinates, by the name of their Dice."""
    shape = pair.fixed.shape[2:]
    before = {"dice_before": identity(shape, align_corners, pair.fixed.device)}
    if alignment is None:
        return {**before, "dice": network(pair.fixed, pair.moving).on_grid(shape)}
    # Reads images' rules: not needed where the maps are taken as they are.
    from carl_cli.registration.alignment import align
    from carl_cli.registration.contexts import Contexts
    from carl_cli.registration.contexts import Pair as Images

    maps = network.both_directions(pair.fixed, pair.moving)
    contexts = Contexts(Images(pair.fixed, pair.moving), alignment)
    (aligned, _), _ = align(maps, contexts, align_corners)
    alone = maps[0].on_grid(shape)
    return {**before, "dice_network": alone, "dice": aligned.on_grid(shape)}


def _median_error(phi: Tensor, truth: Tensor, where: Tensor) -> float:
    return float((phi - truth).norm(dim=1)[0][where].median())


def _dice(pair: Pair, phi: Tensor) -> float | None:
    """Mean Dice of the labels in both images, nearest neighbour."""
    warped = sample_labels(pair.moving_labels[0, 0], phi[0])
    fixed, moving = pair.fixed_labels[0, 0], pair.moving_labels[0, 0]
    top = int(torch.maximum(fixed.max(), moving.max())) + 1
    ours, theirs, there = (
        torch.bincount(m.flatten(), minlength=top) for m in (fixed, warped, moving)
    )
    both = torch.bincount(fixed[fixed == warped], minlength=top)
    present = (ours >= SMALLEST_LABEL) & (there >= SMALLEST_LABEL)
    present[0] = False
    if not bool(present.any()):
        return None
    return float((2 * both / (ours + theirs).clamp_min(1))[present].mean())

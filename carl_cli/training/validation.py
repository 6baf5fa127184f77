"""How good a network is on pairs that it never saw."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from carl_cli.model.fields import identity, jacobian_determinant, sample
from carl_cli.model.operators import Registrar
from carl_cli.model.similarity import lncc
from carl_cli.training.data import PairSource
from carl_cli.training.losses import to_voxels
from carl_cli.training.synthesis.pairs import Pair
from carl_cli.training.synthesis.warps import sample_labels

Scores = dict[str, float]
SMALLEST_LABEL = 50  # voxels


@torch.no_grad()
def validate(network: Registrar, source: PairSource, count: int, align_corners: bool) -> Scores:
    """Means over the first `count` pairs, the network in eval mode:

    dice, dice_before (labels of 50 voxels or more), tre_voxels and tre_before (median error
    in the foreground, where known), lncc (loss), folds_percent. `score`, larger is better,
    is Dice where there are labels and 1 - LNCC loss where there are none.
    """
    collected: dict[str, list[float]] = {}
    for number in range(count):
        for name, value in _scores(network, source.pair(number), align_corners):
            collected.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in collected.items()}
    means["score"] = means.get("dice", 1 - means.get("lncc", 1.0))
    return means


def _scores(network: Registrar, pair: Pair, align_corners: bool) -> Iterator[tuple[str, float]]:
    shape = pair.fixed.shape[2:]
    grid = identity(shape, align_corners, pair.fixed.device)
    phi_unit = network(pair.fixed, pair.moving).on_grid(shape)
    phi, still = (to_voxels(p, shape, align_corners) for p in (phi_unit, grid))
    determinant = jacobian_determinant(phi)
    yield "folds_percent", 100 * float((determinant <= 0).float().mean())
    if pair.contrast == "same":
        yield "lncc", float(lncc(pair.fixed, sample(pair.moving, phi_unit, align_corners)))
    for name, place in (("dice", phi), ("dice_before", still)):
        dice = _dice(pair, place)
        if dice is not None:
            yield name, dice
    if pair.phi is not None and pair.valid is not None:
        where = (pair.valid & (pair.fixed_labels > 0))[0, 0]
        if bool(where.any()):
            yield "tre_voxels", _median_error(phi, pair.phi, where)
            yield "tre_before", _median_error(still, pair.phi, where)


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

"""The network that tells tissues (`model.tissues`), trained: stages of kind `tissues`.

It learns from rendered images of label maps, one at a time. Rendering and self-similarity take a
third of the time of a step, so an image is kept for a while and shown several times. Random
shapes are there to be told from brains: all of them count as no brain.

Suffixes as in `model.tissues`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from carl_cli.errors import InputError
from carl_cli.model.fields import cut
from carl_cli.model.operators import Registrar
from carl_cli.model.tissues import BLOCK, TissueConfig, TissueNetwork, packed, self_similar
from carl_cli.training.data import PairSource
from carl_cli.training.losses import weighted_mean
from carl_cli.training.objective import Term, weighted
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair
from carl_cli.training.tables import StageConfig, TissueClass

AIR, NO_BRAIN = 0, 1
KEPT_PAIRS, FIRST_PAIRS = 12, 4  # so many at once; so many come one a step, that there be a choice
LOOKED_AT = 3  # voxels of a block, in a step
COARSE = 4  # voxels of the coarse head, along each axis
SMALLEST = 20, 50  # voxels of a class whose Dice is learned from, and told
COARSE_HEAD = "coarse."  # before the names of its tensors


class TaughtTissues(TissueNetwork):
    """The network with a second head, at a quarter of the grid, which is there in training only."""

    def __init__(self, config: TissueConfig) -> None:
        super().__init__(config)
        self.coarse = nn.Conv3d(config.widths[1], len(config.classes), 1)

    def compute(self, packed_BCh: Tensor) -> Tensor:
        """Both heads' logits in one row, since a heavy module hands on one tensor."""
        first, second = self.decoded(packed_BCh)
        return torch.cat([self.told(first).flatten(1), self.coarse(second).flatten(1)], 1)

    def both_logits(self, packed_BCh: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 8 K, *shape / 2), K slowest, and (B, K, *shape / 4)."""
        half, classes = packed_BCh.shape[2:], len(self.config.classes)
        quarter = [n // 2 for n in half]
        sizes = [BLOCK * classes * prod(half), classes * prod(quarter)]
        fine, coarse = self.executed(packed_BCh).split(sizes, 1)
        return fine.unflatten(1, (-1, *half)), coarse.unflatten(1, (-1, *quarter))

    def logits(self, packed_BCh: Tensor) -> Tensor:
        return self.both_logits(packed_BCh)[0]


Learner = Registrar | TaughtTissues  # what a run trains


def shipped_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What TissueNetwork has of the tensors of TaughtTissues."""
    return {name: value for name, value in state.items() if not name.startswith(COARSE_HEAD)}


def class_of_label(maps: Path, classes: Sequence[TissueClass]) -> Tensor:
    """(labels,) int64: the class of each label of prepared maps.

    Raises InputError where a class's label is in none of the files, and for maps along other axes.
    """
    with np.load(maps) as file:
        if "axes" not in file.files or str(file["axes"]) != "LPS":
            raise InputError(
                f"{maps}: label maps along the axes of LPS are expected, these may run otherwise",
                "make them again with `carl train prepare`",
            )
        values, tissue = file["values"].tolist(), file["tissue"]
    found = torch.where(torch.from_numpy(tissue) == 0, AIR, NO_BRAIN)
    for number, one in enumerate(classes, start=NO_BRAIN + 1):
        if one.label not in values:
            raise InputError(f"{maps} has no label {one.label} ({one.name})", f"it has {values}")
        found[torch.from_numpy(tissue == tissue[values.index(one.label)])] = number
    return found


@dataclass(frozen=True)
class Shown:
    """An image as the network sees it, and the classes of its voxels."""

    similar: Tensor  # (1, 8 · 12, *shape / 2) float16: dozens are kept
    classes: Tensor  # (1, 1, *shape) uint8
    visible: Tensor  # (1, 1, *shape) bool


def classified(pair: Pair, table: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Fixed and moving image, their classes and where these count, all (1, 1, *shape)."""
    for image, labels, visible in (
        (pair.fixed, pair.fixed_labels, pair.fixed_visible),
        (pair.moving, pair.moving_labels, pair.moving_visible),
    ):
        yield image, table[labels] if pair.real else (labels > 0).long(), visible


class KeptImages:
    """Batch number n holds images of the last pairs; a function of seed and n alone.

    After a resume, kept pairs are made again as they are drawn.
    """

    def __init__(
        self,
        source: PairSource,
        table: Tensor,
        network: TissueConfig,
        stage: StageConfig,
        seed: int,
    ) -> None:
        self.source, self.table, self.network = source, table, network
        self.size, self.every, self.seed = stage.batch, stage.fresh_every, seed
        self.kept: dict[int, list[Shown]] = {}

    def batch(self, number: int) -> list[Shown]:
        chance = Chance(self.seed, "kept", number)
        newest = min(number, FIRST_PAIRS - 1 + number // self.every)
        oldest = max(0, newest - KEPT_PAIRS + 1)
        self.kept = {which: pair for which, pair in self.kept.items() if which >= oldest}
        return [self._drawn(chance, oldest, newest) for _ in range(self.size)]

    def _drawn(self, chance: Chance, oldest: int, newest: int) -> Shown:
        which = chance.integer(oldest, newest)
        if which not in self.kept:
            self.kept[which] = list(self._made(which))
        return self.kept[which][chance.integer(0, 1)]

    def _made(self, which: int) -> Iterator[Shown]:
        with torch.no_grad():
            for image, classes, visible in classified(self.source.pair(which), self.table):
                yield Shown(self_similar(image, self.network).half(), classes.byte(), visible)


class TissueObjective(nn.Module):
    """Cross-entropy and soft Dice of the classes, where the image is visible."""

    def __init__(self, network: TaughtTissues, stage: StageConfig) -> None:
        super().__init__()
        self.network, self.stage = network, stage

    def forward(self, shown: Sequence[Shown], chance: Chance) -> tuple[Tensor, dict[str, Tensor]]:
        similar = torch.cat([one.similar for one in shown]).float()
        terms: list[Term] = []
        for one, fine, coarse in zip(shown, *self.network.both_logits(similar), strict=True):
            terms += fine_terms(fine, one, chance)
            terms.append(("coarse_classes", coarse_entropy(coarse, one, chance)))
        return weighted(terms, self.stage.loss, len(shown))


def fine_terms(logits_Ch: Tensor, shown: Shown, chance: Chance) -> Iterator[Term]:
    """At three of the eight voxels of each block; Dice of the classes of brains that are there.

    logits: (8 K, *shape / 2), as the network has them.
    """
    some = chance.permutation(BLOCK)[:LOOKED_AT]
    logits, classes, visible = (
        x.reshape(-1, BLOCK, prod(logits_Ch.shape[1:]))[:, some].flatten(1)
        for x in (logits_Ch, packed(shown.classes), packed(shown.visible))
    )
    true, seen = classes[0].long(), visible[0].float()
    log_shares = logits.log_softmax(0)
    hit = log_shares.gather(0, true[None])[0]
    yield "classes", weighted_mean(-hit, seen)
    nothing = seen.new_zeros(len(logits))
    sizes = nothing.scatter_add(0, true, seen)
    overlap = nothing.scatter_add(0, true, hit.exp() * seen)
    dice = (2 * overlap + 1) / (sizes + log_shares.exp() @ seen + 1)
    there = sizes > SMALLEST[0]
    there[: NO_BRAIN + 1] = False
    if there.any():
        yield "dice", 1 - dice[there].mean()


def coarse_entropy(logits_Cq: Tensor, shown: Shown, chance: Chance) -> Tensor:
    """Cross-entropy at a quarter of the grid; which voxel of four stands for them is drawn."""
    places = [slice(chance.integer(0, COARSE - 1), None, COARSE)] * 3
    classes, visible = (cut(x, places)[0, 0] for x in (shown.classes, shown.visible))
    entropy = cross_entropy(logits_Cq[None], classes[None].long(), reduction="none")[0]
    return weighted_mean(entropy, visible.float())


@torch.no_grad()
def tissue_scores(
    network: TissueNetwork, source: PairSource, count: int, table: Tensor
) -> dict[str, float]:
    """Dice of each class over all images of the first `count` pairs, where it has 50 voxels or
    more; `dice` and `score` are the mean of those of brains. The network is in eval mode."""
    names = network.config.classes
    sums = torch.zeros(3, len(names), device=table.device)
    for number in range(count):
        for image, classes, visible in classified(source.pair(number), table):
            seen, logits = packed(visible), network.logits(self_similar(image, network.config))
            found = logits.unflatten(1, (-1, BLOCK)).argmax(1)[seen]
            true = packed(classes)[seen]
            counted = (true, found, true[true == found])
            sums += torch.stack([torch.bincount(x, minlength=len(names)) for x in counted])
    each = {
        name: 2 * both / (there + claimed)
        for name, there, claimed, both in zip(names, *sums.tolist(), strict=True)
        if there >= SMALLEST[1]
    }
    brain = [each[name] for name in names[NO_BRAIN + 1 :] if name in each]
    mean = sum(brain) / len(brain) if brain else 0.0
    return {"dice": mean, **{f"dice {name}": value for name, value in each.items()}, "score": mean}

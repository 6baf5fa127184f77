"""One module: a batch of pairs goes in, the loss of a stage comes out.

A module, because DistributedDataParallel averages the gradients of what its forward used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from carl_cli.model.coarse import attention_of
from carl_cli.model.fields import ComposedMap, DisplacementMap, Map, identity, sample
from carl_cli.model.layers import pooled
from carl_cli.model.network import ModelConfig
from carl_cli.model.operators import Registrar
from carl_cli.model.regularity import diffusion, gradicon
from carl_cli.model.similarity import by_name as metric_by_name
from carl_cli.training.losses import (
    BACKGROUND_WEIGHT,
    FOREGROUND_WEIGHT,
    attention_rows,
    attention_to_label,
    attention_to_place,
    common_labels,
    field_error,
    most_frequent,
    soft_dice,
    to_voxels,
)
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair
from carl_cli.training.tables import LossWeights, StageConfig

Term = tuple[str, Tensor]


class Objective(nn.Module):
    """Loss of one stage. forward(pairs, chance) → (scalar loss, {term: detached mean}).

    model: the network's description, as the stage runs it (cut to its levels). For one pair, the
    similarity and regularity are Eq. 17 and 18, averaged over the two orders in which a pair may
    be given; the order only matters for Eq. 17, whose regulariser looks at one direction.
    """

    def __init__(self, network: Registrar, stage: StageConfig, model: ModelConfig) -> None:
        super().__init__()
        self.network = network
        self.stage = stage
        self.align_corners = model.align_corners
        self.image_scale = model.coarse_scale  # of the images that Ξ sees
        self.feature_scale = model.coarse_scale * 2**model.encoder.halvings  # of its matches

    def forward(self, pairs: Sequence[Pair], chance: Chance) -> tuple[Tensor, dict[str, Tensor]]:
        fixed = torch.cat([pair.fixed for pair in pairs])
        moving = torch.cat([pair.moving for pair in pairs])
        terms: list[Term] = []
        if self.stage.loss.uses_attention:
            terms += self._attention_terms(pairs, fixed, moving, chance)
        if self.stage.kind == "registration":
            terms += self._map_terms(pairs, fixed, moving, chance)
        return weighted(terms, self.stage.loss, len(pairs))

    def _attention_terms(
        self, pairs: Sequence[Pair], fixed: Tensor, moving: Tensor, chance: Chance
    ) -> Iterator[Term]:
        coarse = attention_of(self.network)
        assert coarse is not None
        images = pooled(torch.cat([fixed, moving]), self.image_scale)
        features = coarse.features(images)
        yield "zero", features.sum() * 0
        queries, keys = (coarse.sharpness * features[: len(pairs)]), features[len(pairs) :]
        for pair, query, key in zip(pairs, queries, keys, strict=True):
            yield from self._rows_terms(pair, query, key, coarse.margin, chance)

    def _rows_terms(
        self, pair: Pair, query: Tensor, key: Tensor, margin: int, chance: Chance
    ) -> Iterator[Term]:
        scale, loss = self.feature_scale, self.stage.loss
        labels = most_frequent(pair.fixed_labels[0, 0], scale)
        weights = torch.where(labels > 0, FOREGROUND_WEIGHT, BACKGROUND_WEIGHT).flatten()
        if pair.valid is None:
            weights = (labels > 0).float().flatten()
        else:
            weights = weights * (pooled(pair.valid.float(), scale).flatten() > 0.99)
        rows = attention_rows(chance, query, key, margin, weights, loss.queries)
        if rows is None:
            return
        if pair.phi is None:
            there = most_frequent(pair.moving_labels[0, 0], scale)
            yield "same_label", attention_to_label(rows, labels, there)
            return
        places = (pooled(pair.phi, scale)[0].flatten(1).T - (scale - 1) / 2) / scale
        entropy, huber, errors = attention_to_place(rows, places[rows.index])
        yield from (("attention", entropy), ("position", huber))
        yield "median_error", errors.median()

    def _map_terms(
        self, pairs: Sequence[Pair], fixed: Tensor, moving: Tensor, chance: Chance
    ) -> Iterator[Term]:
        shape, loss = fixed.shape[2:], self.stage.loss
        forward, backward = self.network.both_directions(fixed, moving)
        phi, phi_back = forward.on_grid(shape), backward.on_grid(shape)
        yield "zero", (phi.sum() + phi_back.sum()) * 0
        for k, pair in enumerate(pairs):
            own = slice(k, k + 1)
            if loss.similarity and pair.contrast in loss.similar_contrasts:
                yield "similarity", self._similarity(pair, phi[own], phi_back[own])
            if loss.dice:
                yield from self._dice(pair, phi[own], phi_back[own], chance)
            if loss.field and pair.phi is not None:
                yield "field", self._field(pair, phi[own])
        if loss.regularity:
            # For the whole batch at once, hence times the number of pairs.
            regular = self._regularity(forward, backward, phi, phi_back, chance)
            yield "regularity", regular * len(pairs)
        if loss.refinement:
            energies = [*_refinement_energies(forward), *_refinement_energies(backward)]
            yield "refinement", torch.stack(energies).sum() / 2 * len(pairs)

    def _similarity(self, pair: Pair, phi: Tensor, phi_back: Tensor) -> Tensor:
        """Sum of both directions (Eq. 17, 18), each where both images see something."""
        forward = self._alike(pair.fixed, pair.moving, phi, pair.fixed_visible, pair.moving_visible)
        backward = self._alike(
            pair.moving, pair.fixed, phi_back, pair.moving_visible, pair.fixed_visible
        )
        return forward + backward

    def _alike(
        self, image: Tensor, other: Tensor, phi: Tensor, visible: Tensor, other_visible: Tensor
    ) -> Tensor:
        loss = self.stage.loss
        warped = sample(other, phi, self.align_corners)
        with torch.no_grad():
            mask = visible & (sample(other_visible.float(), phi, self.align_corners) > 0.5)
        return metric_by_name(loss.metric, loss.sigma)(image, warped, mask)

    def _dice(self, pair: Pair, phi: Tensor, phi_back: Tensor, chance: Chance) -> Iterator[Term]:
        """Mean of both directions, where both images have labels in common."""
        fixed, moving = pair.fixed_labels, pair.moving_labels
        labels = common_labels(chance, fixed, moving, self.stage.loss.dice_labels)
        if len(labels) == 0:
            return
        corners = self.align_corners
        forward = soft_dice(fixed, moving, phi, pair.fixed_visible, labels, corners)
        backward = soft_dice(moving, fixed, phi_back, pair.moving_visible, labels, corners)
        yield "dice", (forward + backward) / 2

    def _field(self, pair: Pair, phi: Tensor) -> Tensor:
        assert pair.phi is not None
        assert pair.valid is not None
        weights = torch.where(pair.fixed_labels > 0, FOREGROUND_WEIGHT, BACKGROUND_WEIGHT)
        voxels = to_voxels(phi, phi.shape[2:], self.align_corners)
        return field_error(voxels, pair.phi, weights * pair.valid)

    def _regularity(
        self, forward: Map, backward: Map, phi: Tensor, phi_back: Tensor, chance: Chance
    ) -> Tensor:
        shape = phi.shape[2:]
        if self.stage.loss.regulariser == "diffusion":
            grid = identity(shape, self.align_corners, phi.device)
            return (diffusion(phi, grid) + diffusion(phi_back, grid)) / 2
        generator, stride = chance.host_generator, self.stage.loss.gradicon_stride
        return gradicon(forward, backward, shape, self.align_corners, generator, stride, phi.device)


def weighted(terms: list[Term], loss: LossWeights, pairs: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over terms and pairs, and each term's mean; a term that only some pairs have counts for
    those. `zero` is 0, and there so that every parameter takes part, whatever the pair."""
    by_name: dict[str, list[Tensor]] = defaultdict(list)
    for name, value in terms:
        by_name[name].append(value)
    weights = {"zero": 1.0, **loss.model_dump()}
    parts = [
        weights[name] * torch.stack(values).sum() / pairs
        for name, values in by_name.items()
        if name in weights
    ]
    means = {n: torch.stack(v).mean().detach() for n, v in by_name.items() if n != "zero"}
    return torch.stack(parts).sum(), means


def _refinement_energies(map_: Map) -> Iterator[Tensor]:
    """Diffusion energy of each Ψ of a composed map, in voxels."""
    while isinstance(map_, ComposedMap):
        if isinstance(map_.inner, DisplacementMap):
            u = map_.inner.displacement_BDx
            yield diffusion(u, torch.zeros_like(u[:1]))
        map_ = map_.outer

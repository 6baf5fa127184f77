"""Terms of the training losses beyond similarity and regularity.

Coordinates: unit coordinates as in `carl_cli.model.fields` where a name says so, else voxels
(z, y, x) of the grid at hand. Suffixes: N queries, M keys, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from carl_cli.model import similarity
from carl_cli.model.fields import Shape, sample, voxels_per_unit
from carl_cli.training.synthesis.chance import Chance

TARGET_SIGMA = 0.6  # voxels of Ξ
FOREGROUND_WEIGHT, BACKGROUND_WEIGHT = 1.0, 0.1
LEAST_QUERIES = 10  # fewer are no mean
DICE_VOXELS = 30  # smaller labels are too noisy to follow


def to_voxels(phi_unit: Tensor, shape: Shape, align_corners: bool) -> Tensor:
    """(B, 3, …) unit coordinates → voxels of a grid of that shape."""
    scale = voxels_per_unit(shape, align_corners).to(phi_unit.device)
    rest = [1] * (phi_unit.dim() - 2)
    return phi_unit * scale.reshape(1, -1, *rest) - (0.0 if align_corners else 0.5)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


def field_error(phi_voxels: Tensor, truth_voxels: Tensor, weights: Tensor) -> Tensor:
    """Huber loss (1 voxel) of the distance; phi, truth (1, 3, …), weights (1, 1, …)."""
    distance = (phi_voxels - truth_voxels).square().sum(1, keepdim=True).add(1e-6).sqrt()
    return weighted_mean(
        huber_loss(distance, torch.zeros_like(distance), reduction="none"), weights
    )


def soft_dice(
    fixed_labels: Tensor,
    moving_labels: Tensor,
    phi_unit: Tensor,
    visible: Tensor,
    labels: Tensor,
    align_corners: bool,
) -> Tensor:
    """1 - mean Dice of the labels, the moving ones interpolated linearly at phi.

    fixed_labels, moving_labels, visible (where labels count): (1, 1, D, H, W); labels (K,).
    """
    choice = labels.reshape(1, -1, *[1] * (fixed_labels.dim() - 2))
    ours = (fixed_labels == choice).float() * visible
    theirs = sample((moving_labels == choice).float(), phi_unit, align_corners) * visible
    return similarity.soft_dice(ours, theirs)


def common_labels(chance: Chance, fixed: Tensor, moving: Tensor, count: int) -> Tensor:
    """(K,) random labels, K ≤ count, that both images hold in 30 voxels or more."""
    top = int(torch.maximum(fixed.max(), moving.max())) + 1
    counts = torch.minimum(*(torch.bincount(m.flatten(), minlength=top) for m in (fixed, moving)))
    counts[0] = 0
    present = torch.nonzero(counts >= DICE_VOXELS).flatten()
    order = chance.rand(len(present)).argsort()[:count]
    return present[order]


@dataclass(frozen=True)
class Rows:
    """Attention rows of N sampled queries over M keys, the voxels of Ξ and the padding around."""

    logits: Tensor  # (N, M)
    index: Tensor  # (N,) of each query among the voxels of Ξ
    positions: Tensor  # (M, 3) of the keys, voxels of Ξ
    shape: tuple[int, ...]  # of Ξ's voxels
    margin: int  # voxels of padding on each side

    @cached_property
    def weights(self) -> Tensor:
        """(N, M) exp of the logits; they are bounded, so that nothing needs to be subtracted."""
        return self.logits.exp()

    @cached_property
    def _moments(self) -> Tensor:
        """(N, 4): the sum of the weights, and of the weights times positions, in one product."""
        ones = torch.ones_like(self.positions[:, :1])
        return self.weights @ torch.cat([ones, self.positions], 1)

    @property
    def total(self) -> Tensor:
        """(N,) sum of the weights."""
        return self._moments[:, 0]

    @property
    def mean(self) -> Tensor:
        """(N, 3) mean position."""
        return self._moments[:, 1:] / self._moments[:, :1]

    def key_of(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Voxels (…, 3) of Ξ → number of the key (…) and whether there is one."""
        padded = [n + 2 * self.margin for n in self.shape]
        sizes = torch.tensor(padded, device=places.device)
        index = places.long() + self.margin
        inside = ((index >= 0) & (index < sizes)).all(-1)
        index = index.clamp(min=0).minimum(sizes - 1)
        flat = index[..., 0]
        for axis, n in enumerate(padded[1:], start=1):
            flat = flat * n + index[..., axis]
        return flat, inside


def attention_rows(
    chance: Chance, queries: Tensor, keys: Tensor, margin: int, weights: Tensor, count: int
) -> Rows | None:
    """Rows of up to `count` queries drawn where weights (D·H·W,) is positive, more often
    where it is large; None if there are hardly any.

    queries, keys: (C, D + 2 margin, …) features; the queries' margin is cut off here.
    """
    shape = tuple(n - 2 * margin for n in queries.shape[1:])
    count = min(count, int((weights > 0).sum()))
    if count < LEAST_QUERIES:
        return None
    # Largest of u^(1/w): a weighted draw without replacement, in one pass.
    score = chance.rand(weights.numel()).clamp_min(1e-20) ** (1 / weights.clamp_min(1e-9))
    index = torch.where(weights > 0, score, -1.0).topk(count).indices
    crop = (slice(None), *[slice(margin, -margin or None)] * len(shape))
    inner = queries[crop].flatten(1).T
    axes = [torch.arange(-margin, n + margin, device=keys.device).float() for n in shape]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    return Rows(inner[index] @ keys.flatten(1), index, positions, shape, margin)


def attention_to_place(rows: Rows, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows against known places (N, 3), voxels of Ξ: cross-entropy with a Gaussian of 0.6
    voxel, Huber loss of the mean position, and its errors (N,) in voxels."""
    dimension = places.shape[1]
    near = [torch.arange(-1, 3, device=places.device)] * dimension
    offsets = torch.stack(torch.meshgrid(*near, indexing="ij"), -1).reshape(1, -1, dimension)
    corners = places.floor()[:, None] + offsets
    key, inside = rows.key_of(corners)
    gap = (corners - places[:, None]).square().sum(-1)
    target = torch.exp(-gap / (2 * TARGET_SIGMA**2)) * inside
    share = target.sum(1)
    logits = (target * rows.logits.gather(1, key)).sum(1) / share.clamp_min(1e-6)
    reachable = (share > 1e-3).float()
    entropy = weighted_mean(rows.total.log() - logits, reachable)
    errors = (rows.mean - places).norm(dim=1)
    huber = huber_loss(errors, torch.zeros_like(errors), reduction="none")
    return entropy, weighted_mean(huber, reachable), errors.detach()


def attention_to_label(rows: Rows, fixed_labels: Tensor, moving_labels: Tensor) -> Tensor:
    """- log of the attention on keys with the query's label, where there are any.

    fixed_labels, moving_labels: (D, H, W) int64 on the grid of Ξ.
    """
    padded = torch.nn.functional.pad(moving_labels, [rows.margin] * (2 * len(rows.shape))).flatten()
    wanted = fixed_labels.flatten()[rows.index]
    same = padded[None] == wanted[:, None]
    found = same.any(1)
    on_label = torch.where(found, (rows.weights * same).sum(1), 1.0)
    return weighted_mean(rows.total.log() - on_label.log(), found.float())


def most_frequent(labels: Tensor, scale: int) -> Tensor:
    """(D, H, W) labels → (D/scale, …): the most frequent label of each block."""
    if scale == 1:
        return labels
    blocks = labels
    dimension = labels.dim()
    for axis in range(dimension):
        blocks = blocks.unfold(axis, scale, scale)
    values: Tensor = blocks.flatten(dimension).mode(dim=-1).values
    return values

"""Coordinate attention within a window: softmax over the keys around each query alone.

Blocks of queries meet the box of keys that their windows cover in one matrix product; what
lies outside of a query's own window is masked. Exact; the logits are bounded as in
`attention`. Suffixes: B batch, C channels, D dimension, x the shape of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from carl_cli.model.fields import cut

Frame = tuple[Tensor, Tensor, Tensor]
BLOCK = 4  # queries along each axis of a block
LEAST_VARIANCE = 1e-12  # voxels²: the derivative of a root at 0 is infinite
AT_ONCE = 16  # blocks: their logits, 4 MB in 3D at radius 3, stay in the cache


def window_offset(queries_BCx: Tensor, keys_BCx: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Mean offset and standard deviation (B, D, *shape), voxels, of each query's attention.

    queries (B, C, *shape); keys (B, C, *(shape + 2 radius)) with a margin of `radius`, so that
    the key at offset 0 of query i has index i + radius. Differentiable; the backward pass
    recomputes the weights.
    """
    shape = queries_BCx.shape[2:]
    blocks = [-(-n // BLOCK) for n in shape]
    fill = [k for n, b in zip(shape, blocks, strict=True) for k in (b * BLOCK - n, 0)][::-1]
    queries, keys = pad(queries_BCx, fill), pad(keys_BCx, fill)
    frame = _frame(radius, len(shape), queries)
    rows = range(0, queries.shape[2], BLOCK)  # of blocks: the boxes of all at once are large
    slabs = [
        _light_slab(queries[:, :, k : k + BLOCK], keys[:, :, k : k + BLOCK + 2 * radius], frame)
        for k in rows
    ]
    mean, square = cut(torch.cat(slabs, 2), [slice(n) for n in shape]).split(len(shape), dim=1)
    return mean, (square - mean**2).clamp_min(LEAST_VARIANCE).sqrt()


def _light_slab(queries: Tensor, keys: Tensor, frame: Frame) -> Tensor:
    """A slab of which the backward pass keeps views of queries and keys, and makes the boxes and
    the weights again: in 3D at radius 3 boxes hold each key 16 times."""
    if not torch.is_grad_enabled() or not (queries.requires_grad or keys.requires_grad):
        return _slab(queries, keys, frame)
    slab: Tensor = checkpoint(
        _slab, queries, keys, frame, use_reentrant=False, preserve_rng_state=False
    )
    return slab


def _slab(queries: Tensor, keys: Tensor, frame: Frame) -> Tensor:
    """(B, 2 D, *shape): mean offset and mean squared offset of one row of blocks."""
    blocks = [n // BLOCK for n in queries.shape[2:]]
    side = BLOCK + keys.shape[2] - queries.shape[2]
    boxes = zip(
        _boxes(queries, BLOCK).split(AT_ONCE), _boxes(keys, side).split(AT_ONCE), strict=True
    )
    moments = torch.cat([_weighted(q, k, *frame) for q, k in boxes])
    return _grid(moments, queries.shape[0], blocks)


def _boxes(x_BCx: Tensor, side: int) -> Tensor:
    """(B · blocks, C, side^D): the box around each block, neighbours overlapping."""
    dimension = x_BCx.dim() - 2
    for axis in range(2, 2 + dimension):
        x_BCx = x_BCx.unfold(axis, side, BLOCK)
    order = [0, *range(2, 2 + dimension), 1, *range(2 + dimension, 2 + 2 * dimension)]
    return x_BCx.permute(order).reshape(-1, x_BCx.shape[1], side**dimension)


def _frame(radius: int, dimension: int, like: Tensor) -> Frame:
    """Of a block: the mask of its logits (-inf outside of a query's window), the values
    (keys, 1 + 2 D) whose weighted sums are wanted, and the queries' places (queries, D).

    Places are counted from the middle of the box, where squares are small.
    """
    side = BLOCK + 2 * radius
    middle = (side - 1) / 2
    keys = _places(side, dimension).to(like) - middle
    queries = _places(BLOCK, dimension).to(like) + radius - middle
    apart = (keys[None] - queries[:, None]).abs().amax(-1)
    mask = torch.zeros_like(apart).masked_fill(apart > radius, -torch.inf)
    return mask, torch.cat([torch.ones_like(keys[:, :1]), keys, keys**2], 1), queries


def _places(side: int, dimension: int) -> Tensor:
    return torch.tensor(list(product(range(side), repeat=dimension)), dtype=torch.float32)


def _weighted(
    queries: Tensor, keys: Tensor, mask: Tensor, values: Tensor, places: Tensor
) -> Tensor:
    """(blocks, queries, 2 D): mean offset and mean squared offset of each query."""
    weights = torch.baddbmm(mask, queries.transpose(1, 2), keys).exp_()
    sums = weights @ values
    dimension = places.shape[1]
    first, second = (sums[..., 1:] / sums[..., :1]).split(dimension, dim=-1)
    return torch.cat([first - places, second - 2 * first * places + places**2], -1)


def _grid(moments: Tensor, batch: int, blocks: Sequence[int]) -> Tensor:
    """(B · blocks, BLOCK^D, V) → (B, V, *(blocks · BLOCK))."""
    dimension, values = len(blocks), moments.shape[-1]
    split = moments.reshape(batch, *blocks, *[BLOCK] * dimension, values)
    order = [0, 1 + 2 * dimension]
    for axis in range(dimension):
        order += [1 + axis, 1 + dimension + axis]
    return split.permute(order).reshape(batch, values, *(b * BLOCK for b in blocks))

"""Coordinate attention: the mean position of the keys under softmax(Q Kᵀ) (Eq. 11).

One interface, `mean_and_spread`; the N × M matrix of logits never exists as a whole. Features
have length at most `MAX_NORM`, so logits lie in [-16, 16] and exp needs no running maximum:
float32 holds the sum of 10⁹ weights up to exp(64), that is with logits four times sharper.
Legend of suffixes: B batch, N queries, M keys, C channels, D dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_NORM = 4.0
MAX_SHARPNESS = 4.0  # a factor of the queries that the sums still hold
# A tile of logits is 1 MiB: it stays in a core's second-level cache between its three uses.
TILE = 512


def mean_position(queries_BNC: Tensor, keys_BMC: Tensor, positions_MD: Tensor) -> Tensor:
    """(B, N, D): for each query the softmax-weighted mean of the keys' positions.

    Differentiable in queries and keys; the backward pass recomputes the weights.
    """
    return mean_and_spread(queries_BNC, keys_BMC, positions_MD)[0]


def mean_and_spread(
    queries_BNC: Tensor, keys_BMC: Tensor, positions_MD: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean position (B, N, D) and standard deviation (B, N, D) of each attention row.

    Both come from one pass; only the mean is differentiable.
    """
    # Moments are taken about the middle of the positions: less cancellation in float32.
    middle = positions_MD.mean(0)
    mean, spread = _Attention.apply(queries_BNC, keys_BMC, positions_MD - middle)
    return mean + middle, spread


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        moments, total = _tiled_mean(queries, keys, torch.cat([positions, positions**2], dim=1))
        mean, square = moments.chunk(2, dim=-1)
        spread = (square - mean**2).clamp_min(0).sqrt()
        ctx.save_for_backward(queries, keys, positions, mean, total)
        ctx.mark_non_differentiable(spread)
        return mean, spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, keys, positions, mean, total = ctx.saved_tensors
        d_queries, d_keys = _tiled_backward(queries, keys, positions, mean, total, grads[0])
        return d_queries, d_keys, None


def _tiled_mean(queries: Tensor, keys: Tensor, values_MV: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean of the values (B, N, V) and the sum of the weights (B, N, 1)."""
    ones = values_MV.new_ones(values_MV.shape[0], 1)
    values = torch.cat([values_MV, ones], dim=1)  # M, V+1: the last column sums the weights
    rows = []
    for query in queries.split(TILE, dim=1):
        total = query.new_zeros(query.shape[0], query.shape[1], values.shape[1])
        for key, value in zip(keys.split(TILE, dim=1), values.split(TILE, dim=0), strict=True):
            total += _weights(query, key) @ value
        rows.append(total)
    sums = torch.cat(rows, dim=1)
    return sums[..., :-1] / sums[..., -1:], sums[..., -1:]


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """(B, n, m) exp(logit) of one tile, in place."""
    return torch.matmul(query, key.transpose(1, 2)).exp_()


def _tiled_backward(
    queries: Tensor, keys: Tensor, positions: Tensor, mean: Tensor, total: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """d loss / d queries and d keys, from dS_ij = P_ij g_i·(x_j - mean_i)."""
    d_queries = torch.zeros_like(queries)
    d_keys = torch.zeros_like(keys)
    offset = (grad * mean).sum(-1, keepdim=True)
    for start in range(0, queries.shape[1], TILE):
        rows = slice(start, start + TILE)
        for first in range(0, keys.shape[1], TILE):
            cols = slice(first, first + TILE)
            pull = grad[:, rows] @ positions[cols].T - offset[:, rows]
            d_logits = _weights(queries[:, rows], keys[:, cols]).mul_(pull).div_(total[:, rows])
            d_queries[:, rows] += d_logits @ keys[:, cols]
            d_keys[:, cols] += d_logits.transpose(1, 2) @ queries[:, rows]
    return d_queries, d_keys

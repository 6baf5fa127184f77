"""Coordinate attention in tiles of torch operations: exact, on any device, made for CPUs.

A tile holds the transposed weights, keys by queries: the sums over the keys are then a product
of a few long rows with the tile, which a matrix library does three times faster than a product
of the tile with a few short columns. The buffers of a tile are reused.
Legend of suffixes: n queries and m keys of one tile, C channels, D dimension.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from carl_cli.model.fields import Shape, centred_indices
from carl_cli.progress import work_done

# A tile of logits is 1 MiB: it stays in a core's second-level cache between its three uses.
QUERIES = 512
KEYS = 512
EXPONENTIAL = 16  # multiplications take as long


def forward(queries_BNC: Tensor, keys_BMC: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and spread (B, N, D), in voxels about the grid's middle, and log of the sum (B, N)."""
    x_DM = centred_indices(shape, queries_BNC)
    values_VM = torch.cat([x_DM, x_DM**2, torch.ones_like(x_DM[:1])])
    pairs = zip(queries_BNC, keys_BMC, strict=True)
    sums_BVN = torch.stack([_sums(queries, keys, values_VM) for queries, keys in pairs])
    total = sums_BVN[:, -1:]
    mean, square = (sums_BVN[:, :-1] / total).transpose(1, 2).chunk(2, dim=-1)
    return mean, (square - mean**2).clamp_min(0).sqrt(), total[:, 0].log()


def backward(
    queries_BNC: Tensor,
    keys_BMC: Tensor,
    shape: Shape,
    mean_BND: Tensor,
    log_total_BN: Tensor,
    grad_BND: Tensor,
) -> tuple[Tensor, Tensor]:
    """d loss / d queries and d keys, from dS_ij = P_ij g_i·(x_j - mean_i)."""
    x_DM = centred_indices(shape, queries_BNC)
    one_M1 = torch.ones_like(x_DM[:1]).T
    x1_MV = torch.cat([x_DM.T, one_M1], dim=1)
    offset = (grad_BND * mean_BND).sum(-1, keepdim=True)
    pull_BVN = torch.cat([grad_BND, -offset], dim=-1).transpose(1, 2).contiguous()
    d_queries, d_keys = torch.zeros_like(queries_BNC), torch.zeros_like(keys_BMC)
    for b in range(queries_BNC.shape[0]):
        # One more channel turns the logits into logarithms of the normalised weights.
        queries = torch.cat([queries_BNC[b], -log_total_BN[b, :, None]], dim=1)
        keys = torch.cat([keys_BMC[b], one_M1], dim=1)
        for rows, cols, weights in _weight_tiles(queries, keys):
            weights.mul_(x1_MV[cols] @ pull_BVN[b][:, rows])
            d_queries[b, rows].addmm_(weights.T, keys_BMC[b, cols])
            d_keys[b, cols].addmm_(weights, queries_BNC[b, rows])
    return d_queries, d_keys


def _sums(queries_NC: Tensor, keys_MC: Tensor, values_VM: Tensor) -> Tensor:
    """(V, N) sums of the values over the keys, weighted by exp(logit)."""
    sums = values_VM.new_zeros(values_VM.shape[0], queries_NC.shape[0])
    each = weight_effort(keys_MC.shape[1], values_VM.shape[0] // 2)
    for rows, cols, weights in _weight_tiles(queries_NC, keys_MC):
        sums[:, rows].addmm_(values_VM[:, cols], weights)
        work_done(weights.numel() * each, "matching")
    return sums


def weight_effort(channels: int, dimension: int) -> int:
    """Multiplications for one weight: its logit, its exponential and the sums that it enters."""
    return channels + EXPONENTIAL + 2 * dimension + 1


def _weight_tiles(queries_NC: Tensor, keys_MC: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Each tile: which queries, which keys, and (m, n) exp(logit), valid until the next one."""
    buffer = queries_NC.new_empty(KEYS * QUERIES)
    for first in range(0, queries_NC.shape[0], QUERIES):
        query = queries_NC[first : first + QUERIES]
        rows = slice(first, first + query.shape[0])
        for start in range(0, keys_MC.shape[0], KEYS):
            key = keys_MC[start : start + KEYS]
            tile = buffer[: key.shape[0] * query.shape[0]].view(key.shape[0], -1)
            yield rows, slice(start, start + key.shape[0]), torch.mm(key, query.T, out=tile).exp_()

"""Coordinate attention fused into one kernel for GPUs (triton), backward by recomputation.

The values are the keys' voxel indices, computed where they are used: ten columns instead of
as many as there are channels. With indices doubled and counted from the middle they are
integers, exact in bfloat16 up to 256 voxels, and their squares are exact as a sum of two.
Products of features are taken in float16, whose 11 bits keep a logit of 16 to about 0.003.
Sharper logits need more, so narrow features are multiplied in two parts each (all but the
smallest of the four products: 22 bits), for about the time that exponentials take anyway.
Weights and their derivatives need the range of bfloat16; where features are split, weights
are summed in two parts as well. All sums are float32. Exponentials are powers of two: log₂e is
a factor of the queries.
Legend of suffixes: B batch, N queries, M keys, C channels, D dimension.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from carl_cli.model.fields import Shape
from carl_cli.model.kernels.triton_kernels import backward_keys, backward_queries
from carl_cli.model.kernels.triton_kernels import forward as forward_kernel

LOG2_E = math.log2(math.e)
COLUMNS = 16  # the least width of a product: 1, three indices, three squares in two parts
SPLIT_CHANNELS = 128 // 3  # features as narrow as this are multiplied in two parts each


def forward(queries_BNC: Tensor, keys_BMC: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and spread (B, N, D), in voxels about the grid's middle, and log of the sum (B, N)."""
    batch, n_queries, channels = queries_BNC.shape
    sums = queries_BNC.new_empty(batch, n_queries, COLUMNS, dtype=torch.float32)
    settings = _settings(channels, queries_BNC.is_cuda, backward=False)
    products = _products_in_parts if settings["FINE"] else _products
    queries, keys = products(queries_BNC, keys_BMC)
    grid = (triton.cdiv(n_queries, settings["QUERIES"]), batch)
    forward_kernel[grid](queries, keys, sums, *_sizes(queries, keys, shape), **settings)
    total = sums[..., :1]
    moments = sums / total
    mean = moments[..., 1:4] / 2
    variance = (moments[..., 4:7] + moments[..., 7:10]) / 4 - mean**2
    used = slice(3 - len(shape), 3)
    return mean[..., used], variance.clamp_min(0).sqrt()[..., used], total[..., 0].log()


def backward(
    queries_BNC: Tensor,
    keys_BMC: Tensor,
    shape: Shape,
    mean_BND: Tensor,
    log_total_BN: Tensor,
    grad_BND: Tensor,
) -> tuple[Tensor, Tensor]:
    """d loss / d queries and d keys, from dS_ij = P_ij g_i·(x_j - mean_i), float32 both."""
    terms = _terms(mean_BND, log_total_BN, grad_BND)
    inputs = _products(queries_BNC, keys_BMC)
    sizes = _sizes(queries_BNC, keys_BMC, shape)
    settings = _settings(queries_BNC.shape[-1], queries_BNC.is_cuda, backward=True)
    d_queries = torch.empty_like(queries_BNC, dtype=torch.float32)
    d_keys = torch.empty_like(keys_BMC, dtype=torch.float32)
    batch, n_queries, n_keys = *queries_BNC.shape[:2], keys_BMC.shape[1]
    rows = (triton.cdiv(n_queries, settings["QUERIES"]), batch)
    backward_queries[rows](*inputs, terms, d_queries, *sizes, **settings)
    cols = (triton.cdiv(n_keys, settings["KEYS"]), batch)
    backward_keys[cols](*inputs, terms, d_keys, *sizes, **settings)
    # The kernel's queries carry the factor log₂e.
    return d_queries, d_keys / LOG2_E


def _products(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """What is multiplied: float16, contiguous."""
    return (queries * LOG2_E).half().contiguous(), keys.half().contiguous()


def _products_in_parts(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The same with three times the channels, whose products add up to 22 bits."""
    upper_q, lower_q = _in_two(queries * LOG2_E)
    upper_k, lower_k = _in_two(keys)
    return (
        torch.cat([upper_q, upper_q, lower_q], dim=-1),
        torch.cat([upper_k, lower_k, upper_k], dim=-1),
    )


def _in_two(x: Tensor) -> tuple[Tensor, Tensor]:
    """x in float16, and what that leaves of it."""
    upper = x.half()
    return upper, (x - upper).half()


def _terms(mean: Tensor, log_total: Tensor, grad: Tensor) -> Tensor:
    """(B, N, 5) float32: pull on doubled z, y, x, the offset g·mean, and log₂ of the total."""
    pull = torch.nn.functional.pad(grad.float(), [3 - grad.shape[-1], 0]) / 2
    offset = (grad * mean).sum(-1, keepdim=True).float()
    return torch.cat([pull, offset, log_total[..., None] * LOG2_E], dim=-1).contiguous()


def _sizes(queries: Tensor, keys: Tensor, shape: Shape) -> tuple[int, ...]:
    """Queries, keys, three sizes (a plane is one slice), channels."""
    return queries.shape[1], keys.shape[1], *[1] * (3 - len(shape)), *shape, queries.shape[-1]


def _settings(channels: int, on_gpu: bool, backward: bool) -> dict[str, Any]:
    """Sizes of a block: what the registers of one multiprocessor hold."""
    product = triton.language.bfloat16 if on_gpu else triton.language.float32
    common = {"PRODUCT": product, "num_warps": 4, "num_stages": 2}
    if backward:
        return common | {"WIDTH": _power_of_two(channels), "QUERIES": 64, "KEYS": 64}
    fine = channels <= SPLIT_CHANNELS
    width = _power_of_two(3 * channels if fine else channels)
    blocks = {"QUERIES": 128, "KEYS": 64 if width > 64 else 128, "num_warps": 8, "num_stages": 3}
    return common | {"WIDTH": width, "FINE": fine} | blocks


def _power_of_two(channels: int) -> int:
    return max(16, triton.next_power_of_2(channels))

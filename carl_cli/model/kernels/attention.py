"""Coordinate attention: the mean position of the keys under softmax(Q Kᵀ) (Sec. 4; T in Eq. 8-10).

One interface, `mean_and_spread`, and three ways to compute it, none of which ever holds the
N × M matrix of logits: a fused kernel on a GPU where triton is installed, torch's own
scaled_dot_product_attention on a GPU where it isn't, and tiles anywhere else. Features have
length at most `MAX_NORM`, so logits lie in [-16, 16] and exp needs no running maximum:
float32 holds the sum of 10⁹ weights up to exp(64), that is with logits four times sharper.
Legend of suffixes: B batch, N queries, M keys, C channels, D dimension.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from carl_cli.model.fields import Shape, middle_index
from carl_cli.model.kernels import sdpa, tiled

MAX_NORM = 4.0
MAX_SHARPNESS = 4.0  # a factor of the queries that the sums still hold


def mean_and_spread(queries_BNC: Tensor, keys_BMC: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """For each query the softmax-weighted mean of the keys' voxel indices (B, N, D), and their
    standard deviation in voxels (B, N, D).

    The keys are the voxels of an array of this shape, flattened. Both come from one pass; only
    the mean is differentiable, in queries and keys: its backward pass recomputes the weights.
    """
    if keys_BMC.shape[1] != math.prod(shape):
        raise ValueError(f"{keys_BMC.shape[1]} keys for an array of shape {tuple(shape)}")
    if backend_for(queries_BNC.device) is sdpa:
        mean, spread = sdpa.forward(queries_BNC, keys_BMC, shape)
    else:
        mean, spread = _Attention.apply(queries_BNC, keys_BMC, tuple(shape))
    return mean + middle_index(shape, mean), spread


@cache
def backend_for(device: torch.device) -> ModuleType:
    """The module that computes attention there: `fused`, `sdpa` or `tiled`."""
    if device.type != "cuda":
        return tiled
    # Before compute capability 8, cards multiply no bfloat16.
    if torch.cuda.get_device_capability(device) < (8, 0) or not find_spec("triton"):
        return sdpa
    from carl_cli.model.kernels import fused

    return fused


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        mean, spread, log_total = backend_for(queries.device).forward(queries, keys, shape)
        ctx.save_for_backward(queries, keys, mean, log_total)
        ctx.shape = shape
        ctx.mark_non_differentiable(spread)
        return mean, spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, keys, mean, log_total = ctx.saved_tensors
        backend = backend_for(queries.device)
        d_queries, d_keys = backend.backward(queries, keys, ctx.shape, mean, log_total, grads[0])
        return d_queries, d_keys, None

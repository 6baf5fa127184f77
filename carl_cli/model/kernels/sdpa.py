"""Coordinate attention by torch's scaled_dot_product_attention: a GPU without triton.

Its kernels want values as wide as the features, so the few columns are padded with zeros:
about twice the products that are needed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from carl_cli.model.fields import Shape, centred_indices


def forward(queries_BNC: Tensor, keys_BMC: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Mean and spread (B, N, D), in voxels about the grid's middle; the mean differentiable."""
    x_MD = centred_indices(shape, queries_BNC).T
    values = torch.cat([x_MD, x_MD**2], dim=1)
    # Kernels that don't hold the matrix of logits want a multiple of 8 channels.
    width = -(-max(queries_BNC.shape[-1], values.shape[1]) // 8) * 8
    values = values.expand(keys_BMC.shape[0], -1, -1)
    query, key, value = (_padded(x, width) for x in (queries_BNC, keys_BMC, values))
    moments = scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]
    mean, square = moments[..., : x_MD.shape[1]], moments[..., x_MD.shape[1] : 2 * x_MD.shape[1]]
    return mean, (square - mean**2).detach().clamp_min(0).sqrt()


def _padded(x_BNC: Tensor, width: int) -> Tensor:
    """(B, 1, N, width): one head."""
    return pad(x_BNC, [0, width - x_BNC.shape[-1]])[:, None]

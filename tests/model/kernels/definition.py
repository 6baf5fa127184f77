"""Coordinate attention as it is defined, in float64, and features to try it on."""

from __future__ import annotations

import torch
from torch import Tensor


def features(count: int, seed: int, channels: int = 24, batch: int = 2) -> Tensor:
    """(batch, count, channels) random directions of length 4, the encoder's largest."""
    x = torch.randn(batch, count, channels, generator=torch.Generator().manual_seed(seed))
    return 4 * torch.nn.functional.normalize(x, dim=-1)


def indices(shape: tuple[int, ...]) -> Tensor:
    """(M, D) voxel indices of an array, in array-axis order."""
    axes = [torch.arange(n, dtype=torch.float64) for n in shape]
    return torch.cartesian_prod(*axes).view(-1, len(shape))


def exact(queries: Tensor, keys: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the voxel index under each row's softmax, float64."""
    x = indices(shape)
    weights = torch.softmax(queries.double() @ keys.double().transpose(1, 2), dim=-1)
    mean = weights @ x
    square = (x[None, None] - mean[:, :, None]) ** 2
    return mean, torch.einsum("bnm,bnmd->bnd", weights, square).sqrt()


def exact_gradients(
    queries: Tensor, keys: Tensor, shape: tuple[int, ...], pull: Tensor
) -> tuple[Tensor, Tensor]:
    """Of sum(mean · pull) with respect to queries and keys, float64."""
    doubles = [x.detach().double().requires_grad_() for x in (queries, keys)]
    (exact(*doubles, shape)[0] * pull.double()).sum().backward()
    q, k = (x.grad for x in doubles)
    assert q is not None
    assert k is not None
    return q, k

"""Ξ's exact equivariance, and the steps of its proof."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import interpn
from torch import Tensor

from carl_cli.model.attention import CoordinateAttention
from carl_cli.model.encoder import Encoder
from carl_cli.model.kernels.attention import mean_and_spread
from tests.drawn import draw_apart_from_ground


def _network(dimension: int, query_stride: int = 1) -> CoordinateAttention:
    torch.manual_seed(0)
    encoder = Encoder(dimension, 1, 12, 1)
    draw_apart_from_ground(encoder)
    return CoordinateAttention(encoder.eval(), 9, align_corners=False, query_stride=query_stride)


def _block(shape: tuple[int, ...], start: tuple[int, ...], seed: int) -> Tensor:
    """A random block of 6 voxels a side on an empty ground."""
    image = torch.zeros(1, 1, *shape)
    values = torch.rand(1, 1, *[6] * len(shape), generator=torch.Generator().manual_seed(seed))
    image[(..., *(slice(a, a + 6) for a in start))] = values + 1
    return image


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_attention_is_equivariant_to_independent_integer_shifts(
    dimension: int, stride: int
) -> None:
    """Φ[F∘U, M∘W] = W⁻¹∘Φ[F, M]∘U in voxels, for shifts that keep the blocks inside; of the fixed
    image by multiples of the stride."""
    shape = (24,) * dimension
    network, start = _network(dimension, stride), (9,) * dimension
    fixed_shift = ((5, -7, 3) if stride == 1 else (4, -6, 2))[:dimension]
    moving_shift = (-6, 4, 8)[:dimension]
    before = _matches(network, shape, start, start, stride)
    after = _matches(
        network,
        shape,
        tuple(a + s for a, s in zip(start, fixed_shift, strict=True)),
        tuple(a + s for a, s in zip(start, moving_shift, strict=True)),
        stride,
    )
    expected = before + torch.tensor(moving_shift).view(1, -1, *[1] * dimension)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dimension", [2, 3])
def test_features_move_with_the_image(dimension: int) -> None:
    """Eq. 7: as far as the encoder sees, what surrounds the content is the same empty ground."""
    encoder, shape = _network(dimension).encoder, (40,) * dimension
    shift = (5, -7, 3)[:dimension]
    there = tuple(17 + s for s in shift)
    with torch.inference_mode():
        before, after = (encoder(_block(shape, at, 1)) for at in ((17,) * dimension, there))
    here, moved = ((..., *(slice(a, a + 6) for a in at)) for at in ((17,) * dimension, there))
    assert before[here].std() > 0.01
    torch.testing.assert_close(after[moved], before[here], rtol=0, atol=1e-5)


def test_attention_follows_any_order_of_queries_and_keys() -> None:
    """Eq. 8: means in another order of the queries are the same means. Eq. 9, with the keys turned
    end for end: an affine map of their coordinates is one of the means, x → 5 - x."""
    queries, keys = torch.randn(2, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    mean = mean_and_spread(queries, keys, (6,))[0]
    assert mean.std() > 0.1
    torch.testing.assert_close(mean_and_spread(queries[:, order], keys, (6,))[0], mean[:, order])
    torch.testing.assert_close(mean_and_spread(queries, keys.flip(1), (6,))[0], 5 - mean)


def _matches(
    network: CoordinateAttention,
    shape: tuple[int, ...],
    fixed_at: tuple[int, ...],
    moving_at: tuple[int, ...],
    stride: int,
) -> Tensor:
    """Where the voxels of the fixed block go, in voxels of the moving image. The block starts at an
    odd voxel: with a stride of 2 the first one lies between the block and the ground."""
    fixed, moving = _block(shape, fixed_at, 1), _block(shape, moving_at, 2)
    with torch.inference_mode():
        phi = network(fixed, moving).on_grid(shape)
    window = phi[(..., *(slice(a + stride - 1, a + 6) for a in fixed_at))]
    return window * shape[0] - 0.5


@pytest.mark.parametrize("shape", [(9, 12), (7, 8, 10)])
def test_voxels_that_are_not_matched_lie_between_those_that_are(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    dimension, images = len(shape), torch.rand(2, 1, 1, *shape)
    with torch.inference_mode():
        every, second = (_network(dimension, stride)(*images) for stride in (1, 2))
    for whole, found in (
        (every.displacement_BDx, second.displacement_BDx),
        (every.spread, second.spread),
    ):
        expected = whole[0].numpy()
        for axis, n in enumerate(shape, start=1):
            places = np.minimum(np.arange(n), (n - 1) // 2 * 2) / 2
            expected = expected.take(range(0, n, 2), axis)
            expected = interpn((np.arange(-(-n // 2)),), np.moveaxis(expected, axis, 0), places)
            expected = np.moveaxis(expected, 0, axis)
        np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)

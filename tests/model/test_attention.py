"""The tiled kernel against the definition in float64, and Ξ's exact equivariance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carl_cli.kernels.attention import MAX_SHARPNESS, TILE, mean_and_spread, mean_position
from carl_cli.model.attention import CoordinateAttention
from carl_cli.model.encoder import Encoder


def _features(count: int, seed: int) -> Tensor:
    x = torch.randn(2, count, 24, generator=torch.Generator().manual_seed(seed))
    return 4 * torch.nn.functional.normalize(x, dim=-1)


def _naive(queries: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
    weights = torch.softmax(queries @ keys.transpose(1, 2), dim=-1)
    return weights @ positions


@pytest.mark.parametrize(("queries", "keys"), [(7, 5), (TILE + 3, 2 * TILE + 1)])
def test_mean_position_and_its_gradient_equal_the_definition(queries: int, keys: int) -> None:
    q, k = _features(queries, 1), _features(keys, 2)
    k[0, 0] = q[0, 0]  # one logit at its bound of 16
    x = torch.rand(keys, 3, generator=torch.Generator().manual_seed(3))
    pull = torch.randn(2, queries, 3, generator=torch.Generator().manual_seed(4))
    exact = [t.double().requires_grad_() for t in (q, k)]
    ours = [t.clone().requires_grad_() for t in (q, k)]
    expected = _naive(*exact, x.double())
    found = mean_position(*ours, x)
    (expected * pull).sum().backward()
    (found * pull).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    for a, b in zip(ours, exact, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-6)


def test_spread_is_the_standard_deviation_of_each_row() -> None:
    q, k = _features(11, 1), _features(600, 2)
    x = torch.rand(600, 3, generator=torch.Generator().manual_seed(3)) * 40 - 5
    weights = torch.softmax(q.double() @ k.double().transpose(1, 2), dim=-1)
    mean = weights @ x.double()
    expected = (weights @ x.double() ** 2 - mean**2).sqrt()
    found_mean, found = mean_and_spread(q, k, x)
    torch.testing.assert_close(found_mean.double(), mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def _network(dimension: int) -> CoordinateAttention:
    """Features of the empty ground point away from those of content, so that no weight falls
    on it: the mean position of the ground moves with the field of view, not with content."""
    torch.manual_seed(0)
    encoder = Encoder(dimension, 1, 12, 1)
    for parameter in encoder.blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    torch.nn.init.constant_(encoder.blocks[0].norm.weight, 1.0)
    torch.nn.init.constant_(encoder.blocks[0].convs[-1].bias, -1.0)
    torch.nn.init.uniform_(encoder.stem.weight, 0.0, 1.0)
    torch.nn.init.zeros_(encoder.stem.bias)
    return CoordinateAttention(encoder.eval(), 9, align_corners=False)


def _block(shape: tuple[int, ...], start: tuple[int, ...], seed: int) -> Tensor:
    """A random block of 6 voxels a side on an empty ground."""
    image = torch.zeros(1, 1, *shape)
    values = torch.rand(1, 1, *[6] * len(shape), generator=torch.Generator().manual_seed(seed))
    image[(..., *(slice(a, a + 6) for a in start))] = values + 1
    return image


@pytest.mark.parametrize("dimension", [2, 3])
def test_attention_is_equivariant_to_independent_integer_shifts(dimension: int) -> None:
    """Φ[F∘U, M∘W] = W⁻¹∘Φ[F, M]∘U in voxels, for shifts that keep the blocks inside."""
    shape = (28,) * dimension
    network, start = _network(dimension), (11,) * dimension
    fixed_shift, moving_shift = (5, -7, 3)[:dimension], (-6, 4, 8)[:dimension]
    before = _matches(network, shape, start, start)
    after = _matches(
        network,
        shape,
        tuple(a + s for a, s in zip(start, fixed_shift, strict=True)),
        tuple(a + s for a, s in zip(start, moving_shift, strict=True)),
    )
    expected = before + torch.tensor(moving_shift).view(1, -1, *[1] * dimension)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-4)


def _matches(
    network: CoordinateAttention,
    shape: tuple[int, ...],
    fixed_at: tuple[int, ...],
    moving_at: tuple[int, ...],
) -> Tensor:
    """Where the voxels of the fixed block go, in voxels of the moving image."""
    fixed, moving = _block(shape, fixed_at, 1), _block(shape, moving_at, 2)
    with torch.inference_mode():
        phi = network(fixed, moving).on_grid(shape)
    window = phi[(..., *(slice(a, a + 6) for a in fixed_at))]
    return window * shape[0] - 0.5


def test_logits_at_the_greatest_sharpness_do_not_overflow() -> None:
    q, k = MAX_SHARPNESS * _features(5, 1), _features(3000, 2)
    k[:, :1000] = q[:, :1] / MAX_SHARPNESS
    x = torch.rand(3000, 3, generator=torch.Generator().manual_seed(3))
    expected = _naive(q.double(), k.double(), x.double())
    found, spread = mean_and_spread(q, k, x)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    assert bool(torch.isfinite(spread).all())

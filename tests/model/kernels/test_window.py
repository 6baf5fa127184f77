"""Attention within a window against every key of it, one after the other, in float64."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from carl_cli.model.kernels.window import window_offset


def _inputs(shape: tuple[int, ...], radius: int, channels: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    wide = [n + 2 * radius for n in shape]
    queries = torch.randn(2, channels, *shape, generator=generator)
    return queries, torch.randn(2, channels, *wide, generator=generator)


def _one_by_one(queries: Tensor, keys: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    shape = queries.shape[2:]
    weights, offsets = [], []
    for offset in product(range(2 * radius + 1), repeat=len(shape)):
        index = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
        weights.append((queries * keys[(..., *index)]).sum(1).exp())
        offsets.append(torch.tensor(offset).to(queries) - radius)
    share = torch.stack(weights) / torch.stack(weights).sum(0)
    places = torch.stack(offsets)
    mean = torch.einsum("kb...,kd->bd...", share, places)
    square = torch.einsum("kb...,kd->bd...", share, places**2)
    return mean, (square - mean**2).sqrt()


@pytest.mark.parametrize(
    ("shape", "radius"), [((9, 4), 2), ((5, 6, 7), 1), ((4, 3, 9), 3), ((1, 13), 1)]
)
def test_mean_and_spread(shape: tuple[int, ...], radius: int) -> None:
    queries, keys = _inputs(shape, radius)
    expected = _one_by_one(queries.double(), keys.double(), radius)
    for found, wanted in zip(window_offset(queries, keys, radius), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=2e-5)


def test_gradients() -> None:
    queries, keys = _inputs((5, 6), 2)
    pull = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(4))
    found, wanted = [], []
    for inputs, into, way in (
        ((queries, keys), found, window_offset),
        ((queries.double(), keys.double()), wanted, _one_by_one),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        (way(*leaves, 2)[0] * pull).sum().backward()
        into.extend(leaf.grad for leaf in leaves)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 2)])
def test_gradients_are_those_of_finite_differences(shape: tuple[int, ...]) -> None:
    """Of mean and spread, float64, by torch's own comparison."""
    inputs = [0.3 * x.double().requires_grad_() for x in _inputs(shape, 1, 2)]
    assert torch.autograd.gradcheck(lambda q, k: window_offset(q, k, 1), inputs, fast_mode=True)


def test_the_backward_pass_keeps_no_boxes() -> None:
    """What is kept between the passes is not much more than the inputs and what comes out."""
    queries, keys = (x.requires_grad_() for x in _inputs((16, 16, 16), 3, 8))
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        offset = window_offset(queries, keys, 3)[0]
    assert offset.requires_grad
    inputs = 4 * (queries.numel() + keys.numel())
    assert inputs <= sum(kept.values()) < 2 * inputs


def test_equal_weights_have_the_moments_of_the_window() -> None:
    """Constant features: mean 0, variance r (r + 1) / 3 along each axis."""
    queries, keys = torch.ones(1, 2, 5, 5, 5), torch.ones(1, 2, 9, 9, 9)
    mean, spread = window_offset(queries, keys, 2)
    assert mean.abs().max() < 1e-5  # rounding of sums up to 20
    torch.testing.assert_close(spread, torch.full_like(spread, 2**0.5))


def test_a_certain_match_has_finite_gradients() -> None:
    """All weight on one key: the spread is 0, and a loss on it must not make NaN of gradients."""
    queries = torch.ones(1, 3, 4, 4, 4, requires_grad=True)
    keys = torch.full((1, 3, 6, 6, 6), -20.0)  # logits from -60 to 60
    keys[..., 3, 3, 3] = 20
    _, spread = window_offset(queries, keys, 1)
    assert spread.min() < 1e-5
    spread.sum().backward()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()

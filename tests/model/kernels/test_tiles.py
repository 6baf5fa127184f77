"""The tiles, and torch's own kernel with padded values, against the definition in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from carl_cli.model.fields import middle_index
from carl_cli.model.kernels import sdpa, tiled
from carl_cli.model.kernels.attention import MAX_SHARPNESS, mean_and_spread
from tests.model.kernels.definition import exact, exact_gradients, features

SHAPES = [(5,), (3, 7), (9, 11, 13), (2, 23, 29)]  # the last two fill more than two tiles


def _padded(queries: Tensor, keys: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mean, spread = sdpa.forward(queries, keys, shape)
    return mean + middle_index(shape, mean), spread


WAYS = {"tiles": mean_and_spread, "padded": _padded}
Way = Callable[[Tensor, Tensor, tuple[int, ...]], tuple[Tensor, Tensor]]


@pytest.fixture(params=sorted(WAYS))
def attend(request: pytest.FixtureRequest) -> Way:
    way: Way = WAYS[request.param]
    return way


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_and_spread_equal_the_definition(attend: Way, shape: tuple[int, ...]) -> None:
    q, k = features(tiled.QUERIES + 3, 1), features(math.prod(shape), 2)
    k[0, 0] = q[0, 0]  # one logit at its bound of 16
    mean, spread = attend(q, k, shape)
    expected_mean, expected_spread = exact(q, k, shape)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=0, atol=2e-5)
    torch.testing.assert_close(spread.double(), expected_spread, rtol=1e-4, atol=1e-3)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation returns, or writes into."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.numbers = max(self.numbers, found.numel())
        return found


def test_no_tensor_holds_the_logits_of_all_pairs() -> None:
    """2²⁶ pairs, forward and backward: the largest is a tile of 1 MiB."""
    q, k = (torch.randn(1, 2**13, 4, requires_grad=True) for _ in range(2))
    with Largest() as largest:
        mean_and_spread(q, k, (2**13,))[0].sum().backward()
    assert largest.numbers <= 2**18


@pytest.mark.parametrize("shape", [(3, 7), (9, 11, 13)])
def test_gradients_equal_the_definition(attend: Way, shape: tuple[int, ...]) -> None:
    q, k = features(tiled.QUERIES + 3, 1), features(math.prod(shape), 2)
    k[0, 0] = q[0, 0]
    pull = torch.randn(2, q.shape[1], len(shape), generator=torch.Generator().manual_seed(4))
    ours = [x.clone().requires_grad_() for x in (q, k)]
    (attend(*ours, shape)[0] * pull).sum().backward()
    for found, expected in zip(ours, exact_gradients(q, k, shape, pull), strict=True):
        assert found.grad is not None
        torch.testing.assert_close(found.grad.double(), expected, rtol=1e-4, atol=2e-5)


def test_logits_at_the_greatest_sharpness_do_not_overflow() -> None:
    shape = (10, 20, 15)
    q, k = MAX_SHARPNESS * features(5, 1), features(math.prod(shape), 2)
    k[:, :1000] = q[:, :1] / MAX_SHARPNESS
    pull = torch.ones(2, 5, 3) * 1e-8  # as small as one voxel's share of a mean over voxels
    ours = [x.clone().requires_grad_() for x in (q, k)]
    mean, spread = mean_and_spread(*ours, shape)
    expected_mean, expected_spread = exact(q, k, shape)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=0, atol=2e-5)
    torch.testing.assert_close(spread.double(), expected_spread, rtol=1e-4, atol=1e-3)
    (mean * pull).sum().backward()
    for found, expected in zip(ours, exact_gradients(q, k, shape, pull), strict=True):
        assert found.grad is not None
        torch.testing.assert_close(found.grad.double(), expected, rtol=1e-3, atol=1e-12)


def test_float64_stays_float64() -> None:
    q, k = features(4, 1, channels=3).double(), features(6, 2, channels=3).double()
    inputs = [x.requires_grad_() for x in (q, k)]
    assert torch.autograd.gradcheck(lambda a, b: mean_and_spread(a, b, (2, 3))[0], inputs)


def test_keys_that_do_not_fill_the_array_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6 keys for an array of shape \(2, 4\)"):
        mean_and_spread(features(4, 1), features(6, 2), (2, 4))

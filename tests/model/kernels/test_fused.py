"""The fused kernel against the definition in float64: on a GPU where torch sees one, else in
triton's interpreter, which has to be asked for before triton is imported."""

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import Tensor

from carl_cli.model.fields import middle_index
from carl_cli.model.kernels.attention import backend_for, mean_and_spread
from tests.model.kernels.definition import exact, exact_gradients, features

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="triton is not installed (it comes with torch for CUDA)")

from carl_cli.model.kernels import fused, tiled  # noqa: E402

# Relative error of a weight: a logit of 16 from features rounded to 11 bits (two factors, each
# 2⁻¹¹) and the weight itself rounded to 8 bits. Of the mean: that much of the row's spread.
WEIGHT_ERROR = 16 * 2**-10 + 2**-8

# Shapes that are no multiples of a block, channels that are no power of two, one slice (2D).
CASES = [((5, 7, 9), 24, 70), ((13, 17), 32, 130), ((4, 3, 6), 128, 5)]


def _features(shape: tuple[int, ...], channels: int, queries: int) -> tuple[Tensor, Tensor]:
    q, k = features(queries, 1, channels), features(math.prod(shape), 2, channels)
    k[0, 0] = q[0, 0]  # one logit at its bound of 16
    return q, k


@pytest.mark.parametrize(("shape", "channels", "queries"), CASES)
def test_forward_equals_the_definition(shape: tuple[int, ...], channels: int, queries: int) -> None:
    q, k = _features(shape, channels, queries)
    found = fused.forward(q.to(DEVICE), k.to(DEVICE), shape)
    mean, spread, log_total = (x.double().cpu() for x in found)
    expected, expected_spread = exact(q, k, shape)
    off = (mean + middle_index(shape, mean) - expected).abs()
    assert (off - WEIGHT_ERROR * expected_spread).max() < 1e-4
    torch.testing.assert_close(spread, expected_spread, rtol=WEIGHT_ERROR, atol=1e-3)
    logits = q.double() @ k.double().transpose(1, 2)
    torch.testing.assert_close(log_total, logits.logsumexp(-1), rtol=0, atol=WEIGHT_ERROR)


@pytest.mark.parametrize(("shape", "channels", "queries"), CASES)
def test_backward_equals_the_definition(
    shape: tuple[int, ...], channels: int, queries: int
) -> None:
    q, k = _features(shape, channels, queries)
    pull = torch.randn(2, queries, len(shape), generator=torch.Generator().manual_seed(4)) * 1e-8
    inputs = q.to(DEVICE), k.to(DEVICE)
    mean, _, log_total = fused.forward(*inputs, shape)
    found = fused.backward(*inputs, shape, mean, log_total, pull.to(DEVICE))
    for ours, expected in zip(found, exact_gradients(q, k, shape, pull), strict=True):
        off = (ours.double().cpu() - expected).norm() / expected.norm()
        assert off < WEIGHT_ERROR


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
@pytest.mark.parametrize("channels", [32, 128])
def test_positions_are_close_to_the_definition(sharpness: float, channels: int) -> None:
    """To 0.02 voxel; narrow features, whose logits spread most, to a tenth of that."""
    shape = (11, 26, 28)
    q, k = _features(shape, channels, 128)
    mean, _, _ = fused.forward((sharpness * q).to(DEVICE), k.to(DEVICE), shape)
    expected, _ = exact(sharpness * q, k, shape)
    off = (mean.double().cpu() + middle_index(shape, expected) - expected).abs().max()
    assert off < (0.002 if channels <= fused.SPLIT_CHANNELS else 0.02)


def test_sharpest_logits_stay_in_range() -> None:
    shape = (4, 3, 6)
    q, k = _features(shape, 24, 5)
    mean, spread, _ = fused.forward((4 * q).to(DEVICE), k.to(DEVICE), shape)
    expected, expected_spread = exact(4 * q, k, shape)
    off = (mean.double().cpu() + middle_index(shape, expected) - expected).abs()
    assert (off - 4 * WEIGHT_ERROR * expected_spread).max() < 1e-4
    assert bool(torch.isfinite(spread).all())


def test_a_processor_takes_the_tiles() -> None:
    assert backend_for(torch.device("cpu")) is tiled


@pytest.mark.gpu
def test_the_paper_s_size_on_a_gpu() -> None:
    """175³ at a quarter: 44³ queries, (44 + 18)³ keys, 128 channels; rows drawn at random."""
    shape = (62, 62, 62)
    device = torch.device("cuda")
    q, k = features(44**3, 1, 128, 1).to(device), features(math.prod(shape), 2, 128, 1).to(device)
    assert backend_for(device) is fused
    mean, spread = mean_and_spread(q, k, shape)
    rows = torch.randperm(q.shape[1], generator=torch.Generator().manual_seed(0))[:64]
    expected, expected_spread = exact(q[:, rows].cpu(), k.cpu(), shape)
    assert ((mean[:, rows].double().cpu() - expected).abs()).max() < 0.02  # voxel
    torch.testing.assert_close(
        spread[:, rows].double().cpu(), expected_spread, rtol=WEIGHT_ERROR, atol=1e-2
    )

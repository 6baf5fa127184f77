"""Recomputed activations: the same loss and gradients, and far less memory kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from carl_cli.model.encoder import Block
from carl_cli.model.execution import set_execution
from carl_cli.model.network import EncoderConfig, ModelConfig, UNetConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.model.unet import DisplacementUNet

CONFIG = ModelConfig(
    dimension=2,
    refine_scales=(2, 1),
    encoder=EncoderConfig(width=8, blocks=2, padding=3),
    unet=UNetConfig(down=(8, 12), up=(8, 10)),
)
SHAPE = (32, 40)


@pytest.fixture
def network() -> Registrar:
    torch.manual_seed(0)
    network = build_network(CONFIG)
    for parameter in network.parameters():  # the last layers start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def _light(network: Registrar) -> Registrar:
    return set_execution(copy.deepcopy(network), (Block, DisplacementUNet), recompute=True)


def _backward(network: Registrar) -> tuple[float, list[Tensor], int]:
    """Loss, gradients, and the bytes that the graph keeps between the passes."""
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return saved

    fixed, moving = torch.rand(2, 1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        forward, backward = network.both_directions(fixed, moving)
        loss = forward(backward.on_grid(SHAPE)).square().sum()
    kept_bytes = sum(kept.values())
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return loss.item(), list(gradients), kept_bytes


def test_gradients_are_equal_and_little_is_kept(network: Registrar) -> None:
    light = _light(network)
    loss, gradients, kept = _backward(network)
    light_loss, light_gradients, light_kept = _backward(light)
    assert light_loss == loss
    for a, b in zip(light_gradients, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
        assert bool(b.abs().max() > 0)
    assert light_kept < kept / 2


def test_inference_is_untouched(network: Registrar) -> None:
    fixed, moving = torch.rand(2, 1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(fixed, moving).on_grid(SHAPE)
        found = _light(network)(fixed, moving).on_grid(SHAPE)
    assert torch.equal(found, expected)


def test_a_copy_computes_with_its_own_layers(network: Registrar) -> None:
    light = _light(network)
    other = copy.deepcopy(light)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    assert _backward(light)[0] == _backward(network)[0] != _backward(other)[0]

"""What makes training faster or smaller must not change what is learned."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from carl_cli.model.network import ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.training.optimiser import speed_up
from carl_cli.training.tables import RuntimeConfig
from tests.training.conftest import TINY_MODEL

SHAPE = (16, 16, 16)


def network(seed: int = 0) -> Registrar:
    torch.manual_seed(seed)
    built = build_network(ModelConfig.model_validate(TINY_MODEL)).train()
    for parameter in built.parameters():  # the last layers start at zero: give them a say
        torch.nn.init.normal_(parameter, std=0.2)
    return built


def step(net: Registrar) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Map, gradients and buffers after one forward and backward pass."""
    generator = torch.Generator().manual_seed(1)
    fixed, moving = (torch.rand(1, 1, *SHAPE, generator=generator) for _ in range(2))
    phi = net(fixed, moving).on_grid(SHAPE)
    phi.square().mean().backward()
    grads = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    return phi.detach(), grads, dict(net.named_buffers())


def changed(**runtime: Any) -> Registrar:
    net = network()
    speed_up(net, RuntimeConfig.model_validate({"bfloat16": False, **runtime}), torch.device("cpu"))
    return net


def test_gradient_checkpointing_changes_nothing() -> None:
    plain, light = step(network()), step(changed(gradient_checkpointing=True))
    assert torch.equal(plain[0], light[0])
    # As one vector: biases before a batch norm have gradients of pure rounding.
    gradients = [torch.cat([g.flatten() for g in s[1].values()]) for s in (plain, light)]
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()
    for name, value in plain[2].items():
        if not name.endswith("num_batches_tracked"):
            # Means of values that cancel; without the halved momentum they differ by half.
            torch.testing.assert_close(light[2][name], value, rtol=1e-3, atol=1e-5)


def test_bfloat16_convolutions_give_nearly_the_same_map() -> None:
    plain, low = step(network()), step(changed(bfloat16=True))
    assert low[0].dtype == torch.float32
    moved = (plain[0] - low[0]).abs().max() * SHAPE[0]
    assert 0 < moved < 0.5  # voxels; the network is random and rough
    together = [torch.cat([g.flatten() for g in s[1].values()]) for s in (plain, low)]
    assert torch.cosine_similarity(*together, dim=0) > 0.95


def test_state_dicts_stay_as_they_were() -> None:
    net = changed(bfloat16=True, gradient_checkpointing=True)
    assert net.state_dict().keys() == network().state_dict().keys()
    copy.deepcopy(network()).load_state_dict(net.state_dict())


@pytest.mark.slow
def test_compiled_networks_give_the_same_map() -> None:
    plain, fast = step(network()), step(changed(compile=True))
    torch.testing.assert_close(plain[0], fast[0], rtol=1e-4, atol=1e-4)

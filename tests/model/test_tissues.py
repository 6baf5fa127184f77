"""The network that tells tissues: its shares, and that they move with the image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carl_cli.model.tissues import MULTIPLE, TissueConfig, TissueNetwork, packed

CONFIG = TissueConfig(classes=("air", "no brain", "grey", "white"), widths=(6, 8, 10))
LENGTH, REACH = 264, 120  # voxels; a share depends on seven convolutions of 8 voxels, and more


def network(config: TissueConfig = CONFIG) -> TissueNetwork:
    """With numbers in every layer: residual blocks begin as nothing."""
    torch.manual_seed(0)
    built = TissueNetwork(config)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return built.eval()


def image(*shape: int) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))


def test_eight_voxels_become_channels() -> None:
    values = torch.arange(2 * 3 * 4 * 6 * 8).reshape(2, 3, 4, 6, 8)
    blocks = packed(values)
    assert blocks.shape == (2, 24, 2, 3, 4)
    for number, (z, y, x) in enumerate(torch.cartesian_prod(*[torch.arange(2)] * 3).tolist()):
        assert torch.equal(blocks[:, 8 + number], values[:, 1, z::2, y::2, x::2])


@pytest.mark.parametrize("shape", [(16, 24, 32), (17, 9, 12)])
@torch.no_grad()
def test_shares_add_up_to_one_on_any_grid(shape: tuple[int, ...]) -> None:
    shares = network()(image(*shape))
    half = [-(-n // 2) for n in shape]
    assert shares.shape == (1, 4, *half)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(1, *half))
    assert shares.std() > 0.02  # they differ from block to block


@torch.no_grad()
def test_shares_move_with_the_image() -> None:
    """By whole blocks of the coarsest scale, away from the borders: to the bits of a sum."""
    wide = image(LENGTH + MULTIPLE, 8, 8)
    first, second = network()(wide[:, :, :-MULTIPLE]), network()(wide[:, :, MULTIPLE:])
    inner, blocks = slice(REACH // 2, (LENGTH - REACH) // 2), MULTIPLE // 2
    assert (first[:, :, blocks:] - second[:, :, :-blocks])[:, :, inner].abs().max() < 1e-5
    assert (first - second)[:, :, inner].abs().max() > 0.005


@torch.no_grad()
def test_an_inverted_image_has_the_same_tissues() -> None:
    shares, inverted = network()(image(16, 16, 16)), network()(1 - image(16, 16, 16))
    torch.testing.assert_close(shares, inverted, atol=1e-4, rtol=1e-4)

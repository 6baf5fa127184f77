"""The multiplications that a network tells of while it runs are those that were counted before."""

from __future__ import annotations

import pytest
import torch

from carl_cli.model.coarse import weighing
from carl_cli.model.effort import effort, watched
from carl_cli.model.network import EncoderConfig, ModelConfig, UNetConfig, build_network

UNET = UNetConfig(down=(4, 6), up=(4, 5))
PLAIN = EncoderConfig(width=8, blocks=1, padding=3)
NETWORKS = {
    "paper": ModelConfig(encoder=PLAIN, unet=UNET),
    "nested": ModelConfig(encoder=PLAIN, unet=UNET, refine_nested=2),
    "turned": ModelConfig(encoder=PLAIN.model_copy(update={"half_turns": True}), unet=UNET),
    "uniGradICON": ModelConfig(coarse="unet", unet=UNET, refine_scales=(2, 1, 1)),
    "uniCARL": ModelConfig(
        encoder=EncoderConfig(width=8, blocks=2, padding=4, halvings=2, dilations=(1, 1)),
        unet=UNET,
        refine_unets=(4, 1),
        refine_blurs=(2, 1),
    ),
    "carl-base": ModelConfig(
        encoder=EncoderConfig(width=8, blocks=1, padding=6, halvings=1, stem="mind"),
        unet=UNET,
        coarse_symmetric=True,
        window_scales=(2,),
        refine_symmetric=True,
    ),
    "flat": ModelConfig(dimension=2, encoder=PLAIN, unet=UNET, refine_scales=(2,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_was_counted_is_done_and_no_more(name: str) -> None:
    config = NETWORKS[name]
    network = build_network(config)
    fixed, moving = torch.rand(2, 1, 1, *(40, 48, 36)[: config.dimension])
    told: list[float] = []
    with torch.inference_mode(), watched(network, fixed, lambda part, _: told.append(part)):
        network.both_directions(fixed, moving)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1, abs=1e-12)


def test_contrasts_are_encoded_one_by_one() -> None:
    config = NETWORKS["carl-base"].model_copy(update={"refine_scales": ()})
    network = weighing(build_network(config), (0.5, 0.25, 0.25))
    fixed, moving = torch.rand(2, 1, 3, 32, 48, 32)
    told: list[float] = []
    with torch.inference_mode(), watched(network, fixed, lambda part, _: told.append(part)):
        network.both_directions(fixed, moving)
    assert told[-1] == pytest.approx(1, abs=1e-12)


def test_a_convolution_and_a_match_by_hand() -> None:
    """Ξ on 4³ voxels without padding: 3³ products a voxel for 5 features of each image, and for
    each pair of voxels 5 products, an exponential worth 16, 3 means, 3 squares and the sum."""
    encoder = EncoderConfig(width=5, blocks=0, padding=0)
    network = build_network(ModelConfig(encoder=encoder, coarse_scale=1, refine_scales=()))
    assert effort(network, (4, 4, 4)) == 2 * 27 * 5 * 64 + 2 * 64 * 64 * (5 + 16 + 7)


def test_nobody_listens_afterwards() -> None:
    network = build_network(NETWORKS["paper"])
    image = torch.rand(1, 1, 16, 16, 16)
    told: list[float] = []
    with torch.inference_mode():
        with watched(network, image, lambda part, _: told.append(part)):
            pass
        network.both_directions(image, image)
    assert told == []
    assert not any(m._forward_hooks for m in network.modules())

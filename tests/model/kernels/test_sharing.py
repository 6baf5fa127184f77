"""What both directions share is computed once."""

from __future__ import annotations

import torch

from carl_cli.model.coarse import attention_of, coarse_images
from carl_cli.model.fields import DisplacementMap
from carl_cli.model.network import (
    EncoderConfig,
    ModelConfig,
    UNetConfig,
    build_network,
)
from carl_cli.model.operators import Blurred, Down, Kept, Symmetric, SymmetricTwoStep, TwoStep


def test_each_image_s_features_are_computed_once_for_both_directions() -> None:
    config = ModelConfig(
        dimension=2,
        coarse_symmetric=True,
        refine_scales=(2, 1),
        encoder=EncoderConfig(width=8, blocks=1, padding=3, smoothing=1),
        unet=UNetConfig(down=(8,), up=(8,)),
    )
    network = build_network(config)
    attention = attention_of(network)
    assert attention is not None
    calls: list[int] = []
    attention.encoder.register_forward_hook(lambda *_: calls.append(1))
    images = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = network.both_directions(*images)
        assert len(calls) == 2
        coarse = coarse_images(network, *images)
        expected = attention(*coarse), attention(*coarse[::-1])
    # The spread that Ξ found stays with each direction's map, and cost no pass of its own.
    for phi, alone in zip(maps, expected, strict=True):
        assert phi.spread is not None
        torch.testing.assert_close(phi.spread, alone.spread)
        assert phi.spread.min() > 0.1


def test_every_network_around_hands_the_spread_on() -> None:
    """And none touches it: with gradients or without, it is the match's own."""
    still = DisplacementMap(torch.zeros(1, 2, 8, 8), False, torch.full((1, 2, 4, 4), 0.5))
    kept, image = Kept(still, still), torch.rand(1, 1, 8, 8)
    for network in (
        TwoStep(Down(kept), Kept(still, still), False),
        SymmetricTwoStep(kept, Kept(still, still), False),
        Symmetric(kept, False),
        Blurred(kept, 1, False),
    ):
        for phi in (network(image, image), *network.both_directions(image, image)):
            assert phi.spread is still.spread or torch.equal(phi.spread, still.spread)
    unsure = DisplacementMap(torch.zeros(1, 2, 8, 8), False, torch.ones(1, requires_grad=True))
    assert unsure.spread is not None
    assert not unsure.spread.requires_grad

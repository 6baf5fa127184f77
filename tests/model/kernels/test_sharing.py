"""What both directions share is computed once."""

from __future__ import annotations

import torch

from carl_cli.model.attention import noted_spread
from carl_cli.model.network import (
    EncoderConfig,
    ModelConfig,
    UNetConfig,
    attention_of,
    build_network,
    coarse_images,
)


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
        with noted_spread() as noted:
            network.both(*images)
        assert len(calls) == 2
        with noted_spread() as expected:
            attention(*coarse_images(network, *images))
    # The spread for --match-spread is of fixed → moving, and cost no pass of its own.
    assert len(noted) == len(expected) == 1
    torch.testing.assert_close(noted[0], expected[0])
    assert noted[0].min() > 0.1

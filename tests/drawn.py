"""Encoders whose weights are drawn, not trained: equivariance must not need training."""

from __future__ import annotations

import torch

from carl_cli.model.encoder import Encoder


def draw_apart_from_ground(encoder: Encoder) -> None:
    """Features of empty ground point away from those of content, so that no weight falls on it:
    the mean position of the ground moves with the field of view, not with content."""
    for parameter in encoder.blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    torch.nn.init.constant_(encoder.blocks[0].norm.weight, 1.0)
    torch.nn.init.constant_(encoder.blocks[0].convs[-1].bias, -1.0)
    torch.nn.init.uniform_(encoder.stem.weight, 0.0, 1.0)
    torch.nn.init.zeros_(encoder.stem.bias)

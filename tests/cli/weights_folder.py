"""A weights folder with a small network, for tests of everything around it."""

from __future__ import annotations

from pathlib import Path

import torch

from carl_cli.model.network import EncoderConfig, ModelConfig, UNetConfig, build_network
from carl_cli.preprocessing.pair import PreprocessRule
from carl_cli.weights.folder import WeightsConfig, save_weights


def untrained_weights(folder: Path) -> Path:
    """A 3D CARL of a few channels with fixed random numbers, on grids of 32³ voxels at most."""
    torch.manual_seed(0)
    model = ModelConfig(
        encoder=EncoderConfig(width=4, blocks=1, padding=2),
        unet=UNetConfig(down=(4, 8), up=(4, 8)),
    )
    rule = PreprocessRule(grid_rule="physical", max_voxels=32**3, multiple_of=16)
    config = WeightsConfig(name="untrained", model=model, preprocess=rule)
    save_weights(folder, build_network(model), config, "An untrained network.")
    return folder

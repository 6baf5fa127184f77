"""The rule by which the reference weights were drawn, and the files that hold its outputs."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from carl_cli.model.network import EncoderConfig, ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.model.published import load_published

CONFIGS = {
    "carl2d": ModelConfig(dimension=2),
    "carl3d": ModelConfig(),
    "carl3d_extra_step": ModelConfig(refine_scales=(2, 1, 1)),
    "unigradicon3d": ModelConfig(coarse="unet", refine_scales=(2, 1, 1)),
    "unicarl3d": ModelConfig(
        encoder=EncoderConfig(width=384, padding=16, dilations=(1, 1, 1), halvings=2),
        refine_scales=(2, 2, 2, 2, 2, 1),
        refine_unets=(4, 4, 4, 4, 4, 1),
        refine_blurs=(21, 21, 21, 11, 11, 8),
        extrapolation="reflected",
    ),
}


def drawn_weight(key: str, shape: list[int]) -> torch.Tensor:
    """The weight for a key of a published state dict, drawn with the key as the seed."""
    x = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    x = np.asarray(x, np.float32)
    if key.endswith("running_var"):
        x = np.exp(0.2 * x)
    elif key.endswith("running_mean"):
        x = 0.1 * x
    elif key.endswith("num_batches_tracked"):
        x = np.ones_like(x)
    elif "atchnorms" in key.lower():
        x = 0.1 * x + (1 if key.endswith("weight") else 0)
    elif key.endswith("bias"):
        x = 0.02 * x
    else:
        x = x * 1.2 / np.sqrt(np.prod(shape[1:])) * (0.2 if "lastConv" in key else 1)
    return torch.from_numpy(np.asarray(x, np.float32))


def drawn_network(name: str, parity_dir: Path) -> Registrar:
    network = build_network(CONFIGS[name])
    load_published(network, drawn_state(name, parity_dir))
    return network


def drawn_state(name: str, parity_dir: Path) -> dict[str, torch.Tensor]:
    """A state dict as it is published: the names and shapes of the reference's own."""
    if name == "unicarl3d":
        stored = json.loads((parity_dir / "unicarl_state_dict.json").read_text())
    else:
        stored = json.loads((parity_dir / "state_dicts.json").read_text())[name]
    return {key: drawn_weight(key, shape) for key, shape in stored["state_dict"].items()}


def reference_outputs(name: str, parity_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(parity_dir / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

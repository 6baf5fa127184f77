"""One network of Fig. 3 trained on one data set: LNCC with diffusion, then with GradICON."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from carl_cli.model.fields import identity, sample
from carl_cli.model.network import EncoderConfig, ModelConfig, UNetConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.model.regularity import diffusion, gradicon
from carl_cli.model.similarity import lncc
from carl_cli.training.run_folder import has_state, load_state, save_state

LAMBDA = 1.5  # of both regularisers, as in the authors' script
SAVE_EVERY = 50  # steps


class RetinaConfig(BaseModel):
    """The experiment of one TOML file; gradicon_steps come after diffusion_steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reduction: int
    warps: int
    test_warps: int
    batch: int
    diffusion_steps: int
    gradicon_steps: int
    learning_rate: float
    clip_norm: float
    seeds: tuple[int, ...]
    encoder: EncoderConfig
    unet: UNetConfig

    @property
    def networks(self) -> dict[str, ModelConfig]:
        """The three networks of Fig. 3; single, Ψ alone on the whole grid, is the Φ of Fig. 8."""
        shared: dict[str, Any] = {"dimension": 2, "encoder": self.encoder, "unet": self.unet}
        shared |= {"coordinates": "centres"}
        return {
            "CARL": ModelConfig(**shared),
            "attention": ModelConfig(refine_scales=(), **shared),
            "displacement": ModelConfig(coarse="unet", **shared),
            "single": ModelConfig(coarse="unet", coarse_scale=1, refine_scales=(), **shared),
        }


@dataclass(frozen=True)
class Cell:
    """What is trained: a network on a data set from a seed."""

    network: str
    trained_on: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-{self.trained_on.replace(' ', '-')}-{self.seed}"


def fit(
    config: RetinaConfig,
    cell: Cell,
    pairs: tuple[Tensor, Tensor],
    folder: Path,
    log: Callable[[str], None],
) -> Registrar:
    """The trained network of a cell; goes on from its last checkpoint in the folder.

    pairs: fixed and moving images (B, 1, y, x) to draw batches from.
    """
    torch.manual_seed(cell.seed)
    network = build_network(config.networks[cell.network]).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    done = _restore(network, optimiser, folder, cell.name)
    total, begun = config.diffusion_steps + config.gradicon_steps, time.monotonic()
    for step in range(done, total):
        alike = _step(network, optimiser, _batch(pairs, config, cell, step), config, step)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == total:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            save_state(folder, cell.name, {**state, "done": step + 1})
            pace = (time.monotonic() - begun) / (step + 1 - done)
            log(f"{cell.name} {step + 1}/{total}  1 - LNCC {alike:.3f}  {pace:.2f} s a step")
    return network.eval()


def _restore(network: Registrar, optimiser: torch.optim.Optimizer, folder: Path, name: str) -> int:
    """How many steps are done."""
    if not has_state(folder, name):
        return 0
    state = load_state(folder, name)
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["done"])


def _batch(
    pairs: tuple[Tensor, Tensor], config: RetinaConfig, cell: Cell, step: int
) -> tuple[Tensor, Tensor]:
    """A function of seed and step alone, so that a resumed run is the same."""
    generator = torch.Generator().manual_seed(1_000_003 * cell.seed + step)
    chosen = torch.randint(len(pairs[0]), (config.batch,), generator=generator)
    fixed, moving = (images[chosen] for images in pairs)
    return fixed, moving


def _step(
    network: Registrar,
    optimiser: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    config: RetinaConfig,
    step: int,
) -> float:
    """One step of Adam; returns 1 - LNCC, the mean of both directions."""
    alike, regular = _terms(network, *batch, step < config.diffusion_steps, step)
    optimiser.zero_grad(set_to_none=True)
    (2 * alike + LAMBDA * regular).backward()
    nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm or math.inf)
    optimiser.step()
    return alike.item()


def _terms(
    network: Registrar, fixed: Tensor, moving: Tensor, diffuse: bool, seed: int
) -> tuple[Tensor, Tensor]:
    """1 - LNCC and the regulariser, both over the two directions."""
    shape = fixed.shape[2:]
    forward, backward = network.both_directions(fixed, moving)
    phi, phi_back = forward.on_grid(shape), backward.on_grid(shape)
    alike = lncc(fixed, sample(moving, phi, False)) + lncc(moving, sample(fixed, phi_back, False))
    if diffuse:
        grid = identity(shape, False)
        return alike / 2, (diffusion(phi, grid) + diffusion(phi_back, grid)) / 2
    generator = torch.Generator().manual_seed(seed)
    return alike / 2, gradicon(forward, backward, shape, False, generator, stride=2)

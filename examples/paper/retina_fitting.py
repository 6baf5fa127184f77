"""One network of Fig. 3 trained on one data set: LNCC with diffusion, then with GradICON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from carl_cli.model.network import EncoderConfig, ModelConfig, UNetConfig
from carl_cli.model.operators import Registrar
from carl_cli.training.config import TrainConfig
from carl_cli.training.data import Given
from carl_cli.training.loop import train
from carl_cli.training.start import trained
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair

LAMBDA = 1.5  # of both regularisers, as in the authors' script


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
    clip_norm: float | None = None
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


@dataclass(frozen=True)
class DrawnPairs:
    """Images (B, 1, y, x) of which pairs are drawn at random: a function of seed and number."""

    fixed: Tensor
    moving: Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.fixed)

    def pair(self, index: int) -> Pair:
        which = Chance(self.seed, "vessels", index).integer(0, len(self) - 1)
        return Pair.of_images(self.fixed[which, None], self.moving[which, None])


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

    def told(_stage: str, share: float, detail: str) -> None:
        if share == 1.0:
            log(f"{cell.name} {detail}")

    run = folder / cell.name
    given = Given(DrawnPairs(*pairs, cell.seed))
    train(training(config, cell), run, given=given, resume=True, progress=told)
    return trained(str(run)).eval()


def training(config: RetinaConfig, cell: Cell) -> TrainConfig:
    """Of Eq. 17, then of Eq. 18, each with an optimiser of its own."""
    shared = {
        "batch": config.batch,
        "learning_rate": config.learning_rate,
        "clip_norm": config.clip_norm,
    }
    loss = {"similarity": 1.0, "regularity": LAMBDA, "gradicon_stride": 2}
    stages = [
        {"name": name, "steps": steps, "loss": {**loss, "regulariser": name}, **shared}
        for name, steps in (
            ("diffusion", config.diffusion_steps),
            ("gradicon", config.gradicon_steps),
        )
    ]
    return TrainConfig(
        name=cell.name,
        seed=cell.seed,
        model=config.networks[cell.network],
        data={"kind": "given"},
        stages=stages,
        runtime={"device": "cpu", "bfloat16": False, "prefetch": False},
        keeping={"average_decay": 0.0, "log_steps": 50, "checkpoint_seconds": 30.0},
    )

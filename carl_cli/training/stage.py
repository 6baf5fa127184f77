"""One stage at work: its pairs, its optimiser, its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from carl_cli.errors import CarlError
from carl_cli.model.network import coarse_network
from carl_cli.model.operators import Registrar
from carl_cli.training.config import StageConfig, TrainConfig
from carl_cli.training.data import PairSource, training_pairs, validation_pairs
from carl_cli.training.distributed import World
from carl_cli.training.objective import Objective
from carl_cli.training.optimiser import MovingAverage, learning_rate, speed_up
from carl_cli.training.synthesis.chance import Chance

MOST_BAD_STEPS = 20


class DivergedError(CarlError):
    """The loss stopped being a number."""


@dataclass(frozen=True)
class StepFigures:
    """What a step tells: means of the loss and its terms, the learning rate, the norm of the
    gradient before clipping."""

    means: dict[str, float]
    rate: float
    gradient: float
    seconds: float


class Work:
    """A stage of a run on its network; number: the position of the stage."""

    def __init__(
        self,
        config: TrainConfig,
        stage: StageConfig,
        network: Registrar,
        here: World,
        number: int,
    ) -> None:
        self.config, self.stage, self.network = config, stage, network
        self.here, self.number = here, number
        self.bad_steps = 0
        self.source: PairSource = training_pairs(config, stage, here.device)
        self.held_out: PairSource = validation_pairs(config, stage, here.device)
        _choose_parameters(network, stage)
        objective = Objective(network, stage, config.model.coarse_scale, config.model.align_corners)
        self.average = MovingAverage(network, config.keeping.average_decay)
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(
            self.parameters, lr=stage.learning_rate, betas=stage.betas
        )
        speed_up(network, config.runtime)
        self.objective = here.wrap(objective)
        self.objective.train()
        _freeze_norms(network, stage)

    def one_step(self, step: int, total: int) -> StepFigures:
        """Accumulate, average over processes, update; step counts in the stage, total in the
        run. Raises DivergedError after MOST_BAD_STEPS in a row without a finite gradient."""
        begun = time.monotonic()
        rate = learning_rate(self.stage, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        means = self._gradients(total)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.stage.clip_norm or math.inf))
        self._update(norm, total)
        return StepFigures(means, rate, norm, time.monotonic() - begun)

    def _update(self, norm: float, total: int) -> None:
        self.bad_steps = 0 if math.isfinite(norm) else self.bad_steps + 1
        if self.bad_steps == 0 and norm > 0:  # 0: pairs without anything to learn
            self.optimiser.step()
            self.average.update(self.network)
        elif self.bad_steps >= MOST_BAD_STEPS:
            raise DivergedError(
                f"step {total}: {MOST_BAD_STEPS} steps in a row without a finite gradient",
                "lower the learning rate, or set clip_norm",
            )

    def _gradients(self, total: int) -> dict[str, float]:
        """Sum of the gradients of the micro-batches; mean of their terms."""
        collected: dict[str, list[Tensor]] = {}
        for part in range(self.stage.accumulate):
            number = (total * self.stage.accumulate + part) * self.here.size + self.here.rank
            pairs = [
                self.source.pair(number * self.stage.batch + k) for k in range(self.stage.batch)
            ]
            chance = Chance(self.config.seed, "loss", number, device=self.here.device)
            with self._synchronised(part == self.stage.accumulate - 1):
                loss, terms = self.objective(pairs, chance)
                (loss / self.stage.accumulate).backward()
            for name, value in {"loss": loss.detach(), **terms}.items():
                collected.setdefault(name, []).append(value)
        return {name: float(torch.stack(v).mean()) for name, v in collected.items()}

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Gradients travel between processes after the last micro-batch only."""
        if self.here.size == 1 or last:
            yield
        else:
            with self.objective.no_sync():  # type: ignore[operator]  # wrapped: see World.wrap
                yield

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "moving": self.average.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.load_state_dict(state["moving"])


def _choose_parameters(network: Registrar, stage: StageConfig) -> None:
    part = "coarse" if stage.kind == "correspondence" else stage.train
    own = {id(p) for p in coarse_network(network).parameters()}
    for parameter in network.parameters():
        chosen = part == "all" or (id(parameter) in own) == (part == "coarse")
        parameter.requires_grad_(chosen)


def _freeze_norms(network: Registrar, stage: StageConfig) -> None:
    """Running statistics for what does not learn, and for all of it where asked."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            learns = any(p.requires_grad for p in module.parameters())
            module.train(learns and stage.batch_norm == "batch")

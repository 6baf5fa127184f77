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

from carl_cli.errors import DivergedError
from carl_cli.model.coarse import coarse_network
from carl_cli.training.config import TrainConfig, model_at
from carl_cli.training.data import Batches, Given, PairSource, training_pairs, validation_pairs
from carl_cli.training.distributed import World
from carl_cli.training.objective import Objective
from carl_cli.training.optimiser import averaged_model, scheduler, speed_up
from carl_cli.training.refining import KeptPairs, RefinementObjective, tied_refinements
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.tables import StageConfig, SyntheticData
from carl_cli.training.tissues import (
    KeptImages,
    Learner,
    TaughtTissues,
    TissueObjective,
    class_of_label,
    tissue_scores,
)
from carl_cli.training.validation import Scores, alignment_of, validate

MOST_BAD_STEPS = 20


@dataclass(frozen=True)
class StepFigures:
    """What a step tells."""

    means: dict[str, float]  # of the loss and its terms
    rate: float  # of learning
    gradient: float  # norm before clipping
    seconds: float


class Work:
    """A stage of a run on its network; number: the position of the stage; given: pairs in place of
    those of the config."""

    def __init__(
        self,
        config: TrainConfig,
        network: Learner,
        here: World,
        number: int,
        given: Given | None = None,
    ) -> None:
        self.config, self.stage = config, config.stages[number]
        self.network, self.here, self.number = network, here, number
        self.bad_steps = 0
        self.classes = self._class_of_label()
        place = (config, self.stage, here.device)
        source, self.held_out = given or Given(training_pairs(*place), validation_pairs(*place))
        self.batches, objective = self._batches_and_loss(source)
        self.alignment = alignment_of(config, self.stage)
        _choose_parameters(network, self.stage)
        # Before its calls are replaced: a copy would still call the network's.
        self.average = averaged_model(network, config.keeping.average_decay)
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(
            self.parameters, lr=self.stage.learning_rate, betas=self.stage.betas
        )
        self.scheduler = scheduler(self.optimiser, self.stage)
        speed_up(network, config.runtime, here.device)
        self.objective = here.wrap(objective)
        self.objective.train()
        _freeze_norms(network, self.stage)

    def _class_of_label(self) -> Tensor | None:
        """Of the maps, where tissues are learned."""
        data, table = self.config.data, self.config.tissues
        if table is None or not isinstance(data, SyntheticData) or data.maps is None:
            return None
        return class_of_label(data.maps, table.classes).to(self.here.device)

    def _batches_and_loss(
        self, source: PairSource
    ) -> tuple[Batches | KeptPairs | KeptImages, nn.Module]:
        if isinstance(self.network, TaughtTissues):
            assert self.classes is not None
            images = KeptImages(
                source, self.classes, self.network.config, self.stage, self.config.seed
            )
            return images, TissueObjective(self.network, self.stage)
        if self.stage.kind == "refinement":
            matching, unet = tied_refinements(self.network)
            kept = KeptPairs(source, matching, self.stage, self.config.seed)
            return kept, RefinementObjective(unet, self.stage)
        batches = Batches(source, self.stage.batch, self.here.size, self.config.runtime)
        described = model_at(self.config, self.number)
        return batches, Objective(self.network, self.stage, described)

    def one_step(self, total: int) -> StepFigures:
        """Accumulate, average over processes, update; total counts the steps of the run.

        Raises DivergedError after MOST_BAD_STEPS in a row without a finite gradient.
        """
        begun = time.monotonic()
        self.optimiser.zero_grad(set_to_none=True)
        means = self._gradients(total)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.stage.clip_norm or math.inf))
        rate = float(self.scheduler.get_last_lr()[0])
        self._update(norm, total)
        self.scheduler.step()
        return StepFigures(means, rate, norm, time.monotonic() - begun)

    def _update(self, norm: float, total: int) -> None:
        self.bad_steps = 0 if math.isfinite(norm) else self.bad_steps + 1
        if self.bad_steps == 0 and norm > 0:  # 0: pairs without anything to learn
            self.optimiser.step()
            self.average.update_parameters(self.network)
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
            pairs = self.batches.batch(number)
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

    def scores(self, count: int) -> Scores:
        """Of the average, on so many held-out pairs."""
        network: Any = self.average.module
        assert self.held_out is not None
        if self.classes is not None:
            return tissue_scores(network, self.held_out, count, self.classes)
        corners = self.config.model.align_corners
        return validate(network, self.held_out, count, corners, self.alignment)

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "moving": self.average.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.average.load_state_dict(state["moving"])


def _choose_parameters(network: Learner, stage: StageConfig) -> None:
    if isinstance(network, TaughtTissues):  # all of it
        return
    fixed = {"correspondence": "coarse", "refinement": "refinements"}
    part = fixed.get(stage.kind, stage.train)
    own = {id(p) for p in coarse_network(network).parameters()}
    for parameter in network.parameters():
        chosen = part == "all" or (id(parameter) in own) == (part == "coarse")
        parameter.requires_grad_(chosen)


def _freeze_norms(network: nn.Module, stage: StageConfig) -> None:
    """Running statistics for what does not learn, and for all of it where asked."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            learns = any(p.requires_grad for p in module.parameters())
            module.train(learns and stage.batch_norm == "batch")

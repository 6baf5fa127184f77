"""The training loop: stages, steps, checkpoints, and every way to stop and go on.

All draws are functions of (seed, rank, number of the step), so a checkpoint holds no
generator: a resumed run on the CPU gives the same bits as one that never stopped.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from carl_cli.errors import CarlError, UsageError
from carl_cli.model.carl import build_network, coarse_network
from carl_cli.model.operators import Registrar
from carl_cli.progress import Progress, silent
from carl_cli.training.averaging import MovingAverage
from carl_cli.training.chance import Chance
from carl_cli.training.checkpoint import has_state, load_state, save_state
from carl_cli.training.config import StageConfig, TrainConfig, model_at
from carl_cli.training.data import PairSource, training_pairs, validation_pairs
from carl_cli.training.distributed import World, world
from carl_cli.training.journal import Journal
from carl_cli.training.objective import Objective
from carl_cli.training.schedule import learning_rate
from carl_cli.training.speed import speed_up
from carl_cli.training.start import initialised, take_over
from carl_cli.training.validation import Scores, validate

LOGGER = logging.getLogger(__name__)
Outcome = Literal["finished", "time", "signal"]
MOST_BAD_STEPS = 20


class DivergedError(CarlError):
    """The loss stopped being a number."""


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    max_seconds: float = math.inf,
    progress: Progress = silent,
) -> Outcome:
    """Run or continue a training in folder `out`; under torchrun, one process of it.

    Leaves log.jsonl, last.json and best.json (see `checkpoint`). Returns `time` when
    max_seconds ran out and `signal` after SIGTERM, both with a checkpoint to resume from.
    Raises UsageError if `out` holds a run and resume is False, DivergedError when 20 steps
    in a row have no finite gradient.
    """
    with world(config.runtime.device) as here:
        run = Run(config, out, here, resume, progress)
        return run.to_the_end(max_seconds)


@dataclass
class Position:
    """stage: its number; step: done in this stage; total: done in the run."""

    stage: int = 0
    step: int = 0
    total: int = 0


class Run:
    """State of a run: the network, its average, the optimiser, where it is."""

    def __init__(
        self, config: TrainConfig, out: Path, here: World, resume: bool, progress: Progress
    ) -> None:
        self.config, self.out, self.here, self.progress = config, out, here, progress
        self.at = Position()
        self.best = -math.inf
        self.bad_steps = 0
        self.state = self._found(resume)
        self.network: Registrar | None = None

    def to_the_end(self, max_seconds: float) -> Outcome:
        deadline = time.monotonic() + max_seconds
        with ExitStack() as stack:
            terminated = stack.enter_context(_sigterm())
            journal = stack.enter_context(self._journal()) if self.here.leads else None
            while self.at.stage < len(self.config.stages):
                outcome = self._stage(journal, deadline, terminated)
                if outcome != "finished":
                    return outcome
        return "finished"

    def _found(self, resume: bool) -> dict[str, Any] | None:
        """The state to go on from, if any."""
        if not has_state(self.out, "last"):
            return None
        if not resume:
            raise UsageError(f"{self.out} holds a run", "add --resume, or name another --out")
        state = load_state(self.out, "last", "cpu")
        self.at = Position(**state["at"])
        self.best = state["best"]
        if state["model"] != self.config.model.model_dump(mode="json"):
            raise UsageError(f"{self.out} holds a run of another model", "name another --out")
        return state

    def _journal(self) -> Journal:
        return Journal(self.out, self.at.total, self.config.keeping.tensorboard)

    def _stage(self, journal: Journal | None, deadline: float, terminated: _Flag) -> Outcome:
        """Run the rest of the present stage."""
        stage = self.config.stages[self.at.stage]
        work = self._begin(stage)
        last_save = time.monotonic()
        while self.at.step < stage.steps:
            work.one_step(self, journal)
            if self.at.total % self.config.keeping.validate_steps == 0:
                self._measure(work, journal)
            stopping = self._why_stop(deadline, terminated)
            due = time.monotonic() - last_save >= self.config.keeping.checkpoint_seconds
            if self.at.step < stage.steps and (due or stopping):
                self._save(work)
                last_save = time.monotonic()
            if stopping:
                if self.at.step == stage.steps:
                    self._leave(work, journal)
                return stopping
        self._leave(work, journal)
        return "finished"

    def _why_stop(self, deadline: float, terminated: _Flag) -> Outcome | None:
        if self.here.any(terminated.up):
            return "signal"
        return "time" if self.here.any(time.monotonic() >= deadline) else None

    def _begin(self, stage: StageConfig) -> Work:
        torch.manual_seed(self.config.seed + self.at.stage)
        previous, self.network = self.network, None
        network = self._network(stage, previous)
        work = Work(self.config, stage, network, self.here, self.at.stage)
        if self.state is not None and self.at.step > 0:
            work.load(self.state)
        self.network, self.state = network, None
        return work

    def _network(self, stage: StageConfig, previous: Registrar | None) -> Registrar:
        """The network of the present stage, from the previous stage, a checkpoint or anew."""
        model = model_at(self.config, self.at.stage)
        network = build_network(model)
        if self.state is not None:
            previous = build_network(model_at(self.config, self.state["number"]))
            previous.load_state_dict(self.state["network"])
        if previous is None:
            network = initialised(network, self.config)
        else:
            take_over(network, previous, stage.new_refinement == "copy")
        return network.to(self.here.device)

    def _leave(self, work: Work, journal: Journal | None) -> None:
        """End of a stage: the next one starts from the average."""
        if self.at.total % self.config.keeping.validate_steps:  # else it was measured just now
            self._measure(work, journal)
        work.network.load_state_dict(work.average.values)
        self.at = Position(self.at.stage + 1, 0, self.at.total)
        self.best = -math.inf  # scores on other grids and levels don't compare
        self._save(work)

    def _measure(self, work: Work, journal: Journal | None) -> None:
        """Validate on the leading process; keep the average if it is the stage's best."""
        count = self.config.keeping.validation_pairs
        if count and journal is not None:
            with work.average.in_place_of(work.network):
                scores = validate(
                    work.network, work.held_out, count, self.config.model.align_corners
                )
            journal.write("validation", self.at.total, stage=work.stage.name, **scores)
            if scores["score"] > self.best:
                self.best = scores["score"]
                save_state(
                    self.out, "best", self._summary(work, scores), self.config.keeping.part_mib
                )
        self.here.wait()

    def _summary(self, work: Work, scores: Scores | None = None) -> dict[str, Any]:
        return {
            "average": {k: v.cpu() for k, v in work.average.values.items()},
            "model": self.config.model.model_dump(mode="json"),
            "number": work.number,
            "config": self.config.model_dump(mode="json"),
            "at": vars(self.at),
            "scores": scores or {},
        }

    def _save(self, work: Work) -> None:
        if self.here.leads:
            state = self._summary(work) | work.state() | {"best": self.best}
            save_state(self.out, "last", state, self.config.keeping.part_mib)
        self.here.wait()


class Work:
    """One stage at work."""

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
        self.source: PairSource = training_pairs(config, stage, here.device)
        self.held_out: PairSource = validation_pairs(config, stage, here.device)
        _choose_parameters(network, stage)
        objective = Objective(network, stage, config.model.coarse_scale, config.model.align_corners)
        self.average = MovingAverage(network, config.keeping.average_decay)
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(
            self.parameters, lr=stage.learning_rate, betas=stage.betas
        )
        speed_up(network, config.runtime, here.device)
        self.objective = here.wrap(objective)
        self.objective.train()
        _freeze_norms(network, stage)

    def one_step(self, run: Run, journal: Journal | None) -> None:
        """Accumulate, average over processes, update, tell."""
        begun = time.monotonic()
        rate = learning_rate(self.stage, run.at.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        means = self._gradients(run.at.total)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.stage.clip_norm or math.inf)
        run.bad_steps = 0 if bool(torch.isfinite(norm)) else run.bad_steps + 1
        if run.bad_steps == 0 and float(norm) > 0:  # 0: pairs without anything to learn
            self.optimiser.step()
            self.average.update(self.network)
        elif run.bad_steps >= MOST_BAD_STEPS:
            raise DivergedError(
                f"step {run.at.total}: {MOST_BAD_STEPS} steps in a row without a finite gradient",
                "lower the learning rate, or set clip_norm",
            )
        run.at.step, run.at.total = run.at.step + 1, run.at.total + 1
        self._tell(run, journal, means, rate, float(norm), time.monotonic() - begun)

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

    def _tell(
        self,
        run: Run,
        journal: Journal | None,
        means: dict[str, float],
        rate: float,
        norm: float,
        seconds: float,
    ) -> None:
        part = run.at.step / self.stage.steps
        detail = f"step {run.at.step}/{self.stage.steps} loss {means['loss']:.4f} {seconds:.2f} s"
        run.progress(f"stage {self.stage.name}", part, detail)
        if journal is not None and run.at.total % self.config.keeping.log_steps == 0:
            rest = {"rate": rate, "gradient": norm, "seconds": round(seconds, 4)}
            journal.write("train", run.at.total, stage=self.stage.name, **means, **rest)

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


class _Flag:
    up = False


@contextmanager
def _sigterm() -> Iterator[_Flag]:
    """A flag that SIGTERM raises; the loop stops at the end of the step."""
    flag = _Flag()

    def raise_flag(_number: int, _frame: FrameType | None) -> None:
        flag.up = True

    before = signal.signal(signal.SIGTERM, raise_flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)

"""The training loop: stages, steps, checkpoints, and every way to stop and go on.

All draws are functions of (seed, rank, number of the step), so a checkpoint holds no
generator: a resumed run on the CPU gives the same bits as one that never stopped.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from carl_cli.errors import UsageError
from carl_cli.progress import Progress, silent
from carl_cli.training.config import TrainConfig, check_same_experiment
from carl_cli.training.data import Given
from carl_cli.training.distributed import World, world
from carl_cli.training.run_folder import Flag, Journal, has_state, load_state, save_state, sigterm
from carl_cli.training.stage import Work
from carl_cli.training.start import built, initialised, take_over
from carl_cli.training.tables import ImageData
from carl_cli.training.tissues import Learner
from carl_cli.training.validation import Scores

Outcome = Literal["finished", "time", "signal"]


def train(
    config: TrainConfig,
    out: Path,
    *,
    given: Given | None = None,
    resume: bool = False,
    max_seconds: float = math.inf,
    progress: Progress = silent,
) -> Outcome:
    """Run or continue a training in folder `out`; one process of it, where there are several.

    given: pairs in memory, or made as they are asked for, if the config's `data.kind` is `given`.
    Leaves log.jsonl, last.json and best.json (see `run_folder`). Returns `time` when
    max_seconds ran out and `signal` after SIGTERM, both with a checkpoint to resume from.
    Raises UsageError if `out` holds a run and resume is False, or a run of another config, or if
    one of `given` and the config knows nothing of the other;
    InputError for data that can't be used; DivergedError when 20 steps in a row have no finite
    gradient.
    """
    if (config.data.kind == "given") != (given is not None):
        raise UsageError(
            f"data.kind is {config.data.kind}, and pairs were {'not ' * (given is None)}given",
            'kind = "given" is for programs that call train(…, given=Given(pairs))',
        )
    if isinstance(config.data, ImageData):
        from carl_cli.training.cache import (
            fill_cache,
        )  # reads images: not needed for rendered pairs

        fill_cache(config.data, config.preprocess, progress)
    with world(config.runtime.device) as here:
        run = Run(config, out, here, resume, progress, given)
        return run.to_the_end(max_seconds)


@dataclass
class Position:
    """Where a run is."""

    stage: int = 0  # its number
    step: int = 0  # done in this stage
    total: int = 0  # done in the run
    stale: int = 0  # validations since the best one of this stage


class Run:
    """State of a run: the network, its average, the optimiser, where it is."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        here: World,
        resume: bool,
        progress: Progress,
        given: Given | None,
    ) -> None:
        self.config, self.out, self.here, self.progress = config, out, here, progress
        self.given = given
        self.at = Position()
        self.best = -math.inf
        self.state = self._found(resume)
        self.network: Learner | None = None

    def to_the_end(self, max_seconds: float) -> Outcome:
        deadline = time.monotonic() + max_seconds
        with ExitStack() as stack:
            terminated = stack.enter_context(sigterm())
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
        check_same_experiment(state["config"], self.config, self.out)
        self.at = Position(**state["at"])
        self.best = state["best"]
        return state

    def _journal(self) -> Journal:
        return Journal(self.out, self.at.total, self.config.keeping.tensorboard)

    def _stage(self, journal: Journal | None, deadline: float, terminated: Flag) -> Outcome:
        """Run the rest of the present stage."""
        work = self._begin()
        if self.at.total == 0 and self.config.initial is not None:
            self._measure(work, journal)  # what is to be improved on
        last_save = time.monotonic()
        while not self._ended(work):
            self._step(work, journal)
            if self.at.total % self.config.keeping.validate_steps == 0:
                self._measure(work, journal)
            stopping = self._why_stop(deadline, terminated)
            due = time.monotonic() - last_save >= self.config.keeping.checkpoint_seconds
            ended = self._ended(work)
            if not ended and (due or stopping):
                self._save(work)
                last_save = time.monotonic()
            if stopping:
                if ended:
                    self._leave(work, journal)
                return stopping
        self._leave(work, journal)
        return "finished"

    def _ended(self, work: Work) -> bool:
        patience = work.stage.patience
        return self.at.step >= work.stage.steps or 0 < patience <= self.at.stale

    def _step(self, work: Work, journal: Journal | None) -> None:
        """One step, and what is told of it."""
        figures = work.one_step(self.at.total)
        self.at.step, self.at.total = self.at.step + 1, self.at.total + 1
        stage, loss = work.stage, figures.means["loss"]
        detail = f"step {self.at.step}/{stage.steps} loss {loss:.4f} {figures.seconds:.2f} s"
        self.progress(f"stage {stage.name}", self.at.step / stage.steps, detail)
        if journal is not None and self.at.total % self.config.keeping.log_steps == 0:
            rest = {"rate": figures.rate, "gradient": figures.gradient}
            rest["seconds"] = round(figures.seconds, 4)
            journal.write("train", self.at.total, stage=stage.name, **figures.means, **rest)

    def _why_stop(self, deadline: float, terminated: Flag) -> Outcome | None:
        if self.here.any(terminated.up):
            return "signal"
        return "time" if self.here.any(time.monotonic() >= deadline) else None

    def _begin(self) -> Work:
        torch.manual_seed(self.config.seed + self.at.stage)
        previous, self.network = self.network, None
        network = self._network(previous)
        work = Work(self.config, network, self.here, self.at.stage, self.given)
        if self.state is not None and self.at.step > 0:
            work.load(self.state)
        self.network, self.state = network, None
        return work

    def _network(self, previous: Learner | None) -> Learner:
        """The network of the present stage, from the previous stage, a checkpoint or anew."""
        network = built(self.config, self.at.stage)
        if self.state is not None:
            previous = built(self.config, self.state["number"])
            previous.load_state_dict(self.state["network"])
        if previous is None:
            network = initialised(network, self.config)
        else:
            copied = self.config.stages[self.at.stage].new_refinement == "copy"
            take_over(network, previous, copied)
        return network.to(self.here.device)

    def _leave(self, work: Work, journal: Journal | None) -> None:
        """End of a stage: the next one starts from the average."""
        if self.at.total % self.config.keeping.validate_steps:  # else it was measured just now
            self._measure(work, journal)
        work.network.load_state_dict(work.average.module.state_dict())
        self.at = Position(self.at.stage + 1, 0, self.at.total)
        self.best = -math.inf  # scores on other grids and levels don't compare
        self._save(work)

    def _measure(self, work: Work, journal: Journal | None) -> None:
        """Validate on the leading process; keep the average if it is the stage's best."""
        count = 0 if work.held_out is None else len(work.held_out)
        count, better = min(self.config.keeping.validation_pairs, count), False
        if count and journal is not None:
            scores = work.scores(count)
            journal.write("validation", self.at.total, stage=work.stage.name, **scores)
            better = scores["score"] > self.best
            if better:
                self.best = scores["score"]
                save_state(self.out, "best", self._summary(work, scores))
        if count:
            self.at.stale = 0 if self.here.any(better) else self.at.stale + 1
        self.here.wait()

    def _summary(self, work: Work, scores: Scores | None = None) -> dict[str, Any]:
        return {
            "average": {k: v.cpu() for k, v in work.average.module.state_dict().items()},
            "number": work.number,
            "config": self.config.model_dump(mode="json"),
            "at": vars(self.at),
            "scores": scores or {},
        }

    def _save(self, work: Work) -> None:
        if self.here.leads:
            state = self._summary(work) | work.state() | {"best": self.best}
            save_state(self.out, "last", state)
        self.here.wait()

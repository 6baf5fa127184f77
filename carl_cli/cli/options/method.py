"""How pairs are registered: the options that `carl register` and `carl batch` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carl_cli.cli import console
from carl_cli.cli.options.register import (
    ImageArguments,
    InstanceArguments,
    NetworkArguments,
    RunArguments,
    ScoreArguments,
    StartArguments,
    WritingArguments,
)
from carl_cli.errors import UsageError
from carl_cli.system import keep_freed_memory

if TYPE_CHECKING:
    from carl_cli.registration.instance import InstanceOptions
    from carl_cli.registration.register import RegistrationOptions
    from carl_cli.weights.folder import Weights
    from carl_cli.workflows.request import CaseInputs, RunSettings

FILES = (
    "fixed_mask",
    "moving_mask",
    "initial_transform",
    "fixed_seg",
    "moving_seg",
    "fixed_points",
    "moving_points",
)
"""Options that name files which belong to a pair: inputs of a case, columns of a table."""
PAPER = {
    "steps": 50,
    "learning_rate": 2e-5,
    "regularisation": 1.5,
    "gradicon_stride": 1,
    "scope": "all",
    "patience": 0,
}
"""Instance optimisation of the paper (Eq. 18, Sec. 6); metric and sigma are those that the
weights were trained with."""


@dataclass(frozen=True)
class MethodArguments:
    writing: WritingArguments = field(default_factory=WritingArguments)
    network: NetworkArguments = field(default_factory=NetworkArguments)
    instance: InstanceArguments = field(default_factory=InstanceArguments)
    images: ImageArguments = field(default_factory=ImageArguments)
    start: StartArguments = field(default_factory=StartArguments)
    scores: ScoreArguments = field(default_factory=ScoreArguments)
    run: RunArguments = field(default_factory=RunArguments)

    def begin(self) -> int:
        """Logging, thread limits, contradictions: before anything heavy. Returns the threads."""
        run = self.run
        threads = console.start(run.verbose, run.quiet, run.log_file, run.threads)
        keep_freed_memory()
        self.check()
        return threads

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        _check_instance(self.instance, self.start)
        if self.start.initial_transform is not None and self.start.init != "none":
            raise UsageError("an initial transform and --init were both given", "give one of them")

    def but(self, values: Mapping[str, Any]) -> MethodArguments:
        """The same with some options set otherwise, by their names, as a table's line does."""
        groups = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {
            name: replace(group, **{k: v for k, v in values.items() if k in vars(group)})
            for name, group in groups.items()
        }
        return replace(self, **changed)

    def files(self) -> dict[str, Path]:
        """Role → path of the files that were named."""
        values = asdict(self.images) | asdict(self.start) | asdict(self.scores)
        return {role: values[role] for role in FILES if values[role] is not None}

    def inputs(self, fixed: Path, moving: Path) -> CaseInputs:
        from carl_cli.workflows.request import CaseInputs

        volume = {"series_uid": self.images.series_uid, "time_index": self.images.time_index}
        return CaseInputs(fixed, moving, **self.files(), **volume)  # type: ignore[arg-type]

    def load(self, device: str) -> Weights:
        """The network on a device by name, ready to be used."""
        from carl_cli.weights.locate import chosen_weights

        network = self.network
        return chosen_weights(network.weights, device, network.deterministic, network.offline)

    def options(self, weights: Weights, confidence: bool) -> RegistrationOptions:
        """What is asked of `register`, the weights' advice where the command line is silent."""
        from carl_cli.registration.register import RegistrationOptions

        images, start, instance = self.images, self.start, self.instance
        return RegistrationOptions(
            fixed_modality=images.fixed_modality or images.modality,
            moving_modality=images.moving_modality or images.modality,
            window=images.window,
            percentiles=images.percentiles,
            init=start.init,
            affine_only=start.affine_only,
            repair_folds=start.repair_folds,
            instance=_instance(weights, instance, self.network.seed) if instance.io else None,
            confidence=confidence,
        )

    def settings(
        self, options: RegistrationOptions, device: str, threads: int, workers: int = 1
    ) -> RunSettings:
        from carl_cli.workflows.request import RunSettings

        return RunSettings(
            self.writing.field_spacing,
            self.writing.precision,
            device,
            threads,
            self.network.seed,
            self.network.deterministic,
            workers,
            self._noted() | _noted_instance(options),
        )

    def _noted(self) -> dict[str, Any]:
        """Options for the record, without those left at None; files are told there by role."""
        groups = (self.instance, self.images, self.start, self.writing)
        values = {name: value for group in groups for name, value in asdict(group).items()}
        return {k: v for k, v in values.items() if v is not None and k not in FILES}


def _check_instance(instance: InstanceArguments, start: StartArguments) -> None:
    """Raise UsageError for options of an instance optimisation that would not take place."""
    if instance.io and start.affine_only:
        raise UsageError(
            "--io and --affine-only were both given",
            "leave out --io: an affine result is not fitted further",
        )
    silent = [name for name, value in vars(instance).items() if name != "io" and value is not None]
    if silent and not instance.io:
        option = "--" + silent[0].replace("_", "-")
        raise UsageError(f"{option} was given without --io", "add --io")


def _instance(weights: Weights, arguments: InstanceArguments, seed: int) -> InstanceOptions:
    from carl_cli.registration.instance import InstanceOptions

    asked = {
        "steps": arguments.io_steps,
        "learning_rate": arguments.io_lr,
        "metric": arguments.io_metric,
        "sigma": arguments.io_sigma,
        "regularisation": arguments.io_lambda,
        "smoothing": arguments.io_smoothing,
        "scope": arguments.io_scope,
    }
    chosen = {k: v for k, v in asked.items() if v is not None}
    preset = PAPER if arguments.io_preset == "paper" else {}
    advised = weights.config.instance.model_dump()
    options = InstanceOptions(**{**advised, **preset, **chosen}, seed=seed)
    _check_scope(arguments, options.scope)
    if options.metric == "mind" and arguments.io_sigma is not None:
        raise UsageError("--io-sigma was given, and the metric mind has no window of that kind")
    return options


def _check_scope(arguments: InstanceArguments, scope: str) -> None:
    """Raise UsageError for an option that this scope has no use for."""
    idle = ("io_lr", "io_lambda") if scope == "field" else ("io_smoothing",)
    given = [name for name in idle if getattr(arguments, name) is not None]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise UsageError(
            f"{option} was given, and the scope of --io is {scope}, which does not use it",
            "choose the scope with --io-scope: --io-lr and --io-lambda are for all and refine, "
            "--io-smoothing is for field",
        )


def _noted_instance(options: RegistrationOptions) -> dict[str, Any]:
    """What instance optimisation was done with, the weights' own choices included."""
    used = options.instance
    if used is None:
        return {}
    common = {"io_steps": used.steps, "io_metric": used.metric, "io_scope": used.scope}
    if used.metric != "mind":
        common["io_sigma"] = used.sigma
    if used.scope == "field":
        return common | {"io_smoothing": used.smoothing}
    return common | {"io_lr": used.learning_rate, "io_lambda": used.regularisation}

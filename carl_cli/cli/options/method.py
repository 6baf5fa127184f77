"""How pairs are registered: the options that `carl register` and `carl batch` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carl_cli.cli import console
from carl_cli.cli.options.grouping import Some, changed
from carl_cli.cli.options.register import InstanceArguments, RunArguments
from carl_cli.errors import UsageError
from carl_cli.preprocessing.options import ImageOptions, Option, noted, options_of
from carl_cli.registration.options import ChannelOptions, GuideOptions, StartOptions
from carl_cli.system import keep_freed_memory
from carl_cli.weights.options import UNUSED, InstanceChoices, NetworkOptions
from carl_cli.weights.registry import DEFAULT, suited
from carl_cli.workflows.request import CaseInputs, WritingOptions

if TYPE_CHECKING:
    from carl_cli.batch.job import Job
    from carl_cli.batch.table import Entry, Row
    from carl_cli.batch.workers import Setup
    from carl_cli.registration.instance import InstanceOptions
    from carl_cli.registration.register import RegistrationOptions
    from carl_cli.weights.folder import Weights
    from carl_cli.workflows.request import RunSettings

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
    """files: of the fields of CaseInputs, all but the two images."""

    writing: WritingOptions = field(default_factory=WritingOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    instance: InstanceArguments = field(default_factory=InstanceArguments)
    images: ImageOptions = field(default_factory=ImageOptions)
    files: Some[CaseInputs] = field(default_factory=Some)
    start: StartOptions = field(default_factory=StartOptions)
    guide: GuideOptions = field(default_factory=GuideOptions)
    channels: ChannelOptions = field(default_factory=ChannelOptions)
    run: RunArguments = field(default_factory=RunArguments)
    rough: bool = False  # see RegistrationOptions

    def begin(self) -> int:
        """Logging, thread limits, contradictions: before anything heavy. Returns the threads."""
        run = self.run
        threads = console.start(run.verbose, run.quiet, run.log_file, run.threads)
        keep_freed_memory()
        self.check()
        return threads

    def check(self) -> None:
        """Raise UsageError for options that contradict each other, or out of bounds."""
        _check_instance(self.instance, self.start)
        if "initial_transform" in self.files.values and self.start.init != "none":
            raise UsageError("an initial transform and --init were both given", "give one of them")

    def but(self, values: Mapping[str, Any]) -> MethodArguments:
        """The same with some options set otherwise, by their names, as a table's line does."""
        method: MethodArguments = changed(self, values)
        return method

    def paths(self) -> dict[str, Path]:
        """Role → path of the files that were named."""
        return {k: v for k, v in self.files.values.items() if isinstance(v, Path)}

    def inputs(self, fixed: Path, moving: Path) -> CaseInputs:
        return CaseInputs(fixed, moving, strict=self.run.strict, **self.files.values)

    def suited_to(self, fixed: Path) -> MethodArguments:
        """The same, with the default weights that are for images of this one's dimension.

        Raises InputError for an image that can't be read."""
        if self.network.weights != DEFAULT:
            return self
        from carl_cli.io.images.files import read_grid

        grid = read_grid(fixed, series_uid=self.files.values.get("series_uid"))
        network = replace(self.network, weights=suited(DEFAULT, grid.dimension))
        return replace(self, network=network)

    def load(self, device: str) -> Weights:
        """The network on a device by name, ready to be used."""
        from carl_cli.weights.locate import chosen_weights

        network = self.network
        return chosen_weights(network.weights, device, network.deterministic, network.offline)

    def options(self, weights: Weights, match_spread: bool) -> RegistrationOptions:
        """What is asked of `register`, the weights' advice where the command line is silent."""
        from carl_cli.registration.register import RegistrationOptions

        seed, fit = self.network.seed, self.instance
        return RegistrationOptions(
            **asdict(self.images),
            **asdict(self.start),
            **asdict(self.guide),
            **asdict(self.channels),
            instance=_instance(weights, fit.chosen.values, seed) if fit.io else None,
            match_spread=match_spread,
            rough=self.rough,
        )

    def settings(
        self, options: RegistrationOptions, device: str, threads: int, workers: int = 1
    ) -> RunSettings:
        from carl_cli.workflows.request import RunSettings

        return RunSettings(
            **asdict(self.writing),
            device=device,
            threads=threads,
            seed=self.network.seed,
            deterministic=self.network.deterministic,
            workers=workers,
            noted=self._noted(options),
        )

    def job(
        self,
        entry: Entry,
        row: Row,
        out_dir: Path,
        roles: Sequence[str],
        weights: Weights,
        setups: Sequence[Setup],
    ) -> Job:
        """A row of a table with these options where it is silent; roles: of the wanted outputs."""
        from carl_cli.batch.job import Job
        from carl_cli.batch.naming import case_outputs

        own, setup = self.but(row.options), setups[0]
        linear = own.start.linear is not None
        outputs = case_outputs(out_dir / entry.name, row.fixed, row.moving, tuple(roles), linear)
        options = own.options(weights, not {"match_spread", "report"}.isdisjoint(roles))
        settings = own.settings(options, setup.device, setup.threads, len(setups))
        inputs = own.inputs(row.fixed, row.moving)
        return Job(entry.name, entry.line, inputs, outputs, options, settings)

    def _noted(self, options: RegistrationOptions) -> dict[str, Any]:
        """Options for the record: of instance optimisation what it is done with, the weights' own
        choices included. Files are told there by their roles."""
        chosen = (self.start, self.guide, self.channels)
        groups = (self.network, self.images, *chosen, self.writing)
        values = {name: value for group in groups for name, value in noted(group).items()}
        volume = {k: v for k, v in self.files.values.items() if not isinstance(v, Path)}
        used = options.instance
        fit = {} if used is None else noted(used)
        unused = () if used is None else [o.name for o in _unused(used.scope)]
        values |= {"io": used is not None} | volume | ({"rough": True} if self.rough else {})
        return values | {name: value for name, value in fit.items() if name not in unused}


def _check_instance(instance: InstanceArguments, start: StartOptions) -> None:
    """Raise UsageError for options of an instance optimisation that would not take place."""
    if start.linear is not None and instance.io:
        named = "--affine-only" if start.affine_only else f"--transform {start.transform}"
        raise UsageError(
            f"--io and {named} were both given",
            "leave out --io: such a result is refined by the images' similarity in any case",
        )
    InstanceChoices(**instance.chosen.values)
    given = [o.flag for o in options_of(InstanceChoices) if o.field in instance.chosen.values]
    if given and not instance.io:
        raise UsageError(f"--{given[0]} was given without --io", "add --io")


def _instance(weights: Weights, chosen: Mapping[str, Any], seed: int) -> InstanceOptions:
    from carl_cli.registration.instance import InstanceOptions

    preset = PAPER if chosen.get("preset") == "paper" else {}
    advised = asdict(weights.config.instance)
    options = InstanceOptions(**{**advised, **preset, **chosen}, seed=seed)
    _check_scope(chosen, options.scope)
    if options.metric == "mind" and "sigma" in chosen:
        raise UsageError("--io-sigma was given, and the metric mind has no window of that kind")
    return options


def _unused(scope: str) -> list[Option]:
    return [o for o in options_of(InstanceChoices) if o.field in UNUSED[scope]]


def _check_scope(chosen: Mapping[str, Any], scope: str) -> None:
    """Raise UsageError for an option that this scope has no use for."""
    given = [o.flag for o in _unused(scope) if o.field in chosen]
    if given:
        raise UsageError(
            f"--{given[0]} was given, but --io-scope {scope} does not use it",
            "leave it out, or choose another --io-scope: --io-lr and --io-lambda are for all and "
            "refine, --io-smoothing is for field",
        )

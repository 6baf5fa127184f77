"""Weights to start from: an earlier run, or a weights folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from carl_cli.errors import InputError, OutputError, UsageError, WeightsError
from carl_cli.io.atomic import atomic_path
from carl_cli.model.coarse import coarse_network
from carl_cli.model.network import ModelConfig, build_network
from carl_cli.model.operators import Blurred, Down, Registrar, Symmetric, TwoStep
from carl_cli.system import shipped
from carl_cli.training.config import TrainConfig, model_at, whole_model
from carl_cli.training.run_folder import has_state, load_state
from carl_cli.training.tissues import Learner, TaughtTissues

NO_NETWORK = "the checkpoint holds no network of carl train", "was it made by another version?"


def built(config: TrainConfig, stage_number: int) -> Learner:
    """The network that a stage trains, before any training."""
    if config.tissues is not None:
        return TaughtTissues(config.tissues.network)
    return build_network(model_at(config, stage_number))


def initialised(network: Learner, config: TrainConfig) -> Learner:
    """The network with the weights, or Ξ's, of `config.initial`; as built without it. Tissues, too,
    are as built: they only have to know that there is what they will stand beside.

    Raises WeightsError if they belong to another architecture.
    """
    if config.initial is None:
        return network
    source = trained(config.initial)
    if isinstance(network, TaughtTissues):
        return network
    if config.initial_part == "coarse":
        _load(coarse_network(network), coarse_network(source), config.initial)
    else:
        _load(network, source, config.initial)
    return network


def trained(source: str) -> Registrar:
    """The averaged network of a run (best, else last), or that of weights by name, folder or
    repository. Raises WeightsError if there are none."""
    for name in ("best", "last"):
        if has_state(Path(source), name):
            return averaged(load_state(Path(source), name))[0]
    # Read images' rules: not needed where a training starts from nothing.
    from carl_cli.weights.folder import load_weights
    from carl_cli.weights.locate import locate

    return load_weights(locate(source)).network


def config_of(state: dict[str, Any]) -> TrainConfig:
    """Of the run of a checkpoint. Raises InputError for a state of something else."""
    try:
        return TrainConfig.model_validate(state["config"])
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(*NO_NETWORK) from error


def averaged(state: dict[str, Any]) -> tuple[Registrar, ModelConfig]:
    """The whole network that a run is making, with the averages of a checkpoint; what its
    stage did not reach yet is the identity. Raises InputError for a state of something else."""
    training = config_of(state)
    if training.tissues is not None:
        hint = "name the weights folder that it is exported to"
        raise InputError("the run trained tissues, no registration", hint)
    try:
        number = state["number"]
        model = whole_model(training, number)
        network, trained_part = build_network(model), build_network(model_at(training, number))
        trained_part.load_state_dict(state["average"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(*NO_NETWORK) from error
    take_over(network, trained_part, copy_last=False)
    return network, model


def take_over(network: Learner, previous: Learner, copy_last: bool) -> None:
    """Ξ and the refinements of `previous`; a refinement that it lacks stays as built, or
    becomes a copy of its last one. Of tissues, all."""
    ours, theirs = parts(network), parts(previous)
    if copy_last and len(theirs) > 1:
        theirs += theirs[-1:] * (len(ours) - len(theirs))
    for target, source in zip(ours, theirs, strict=False):
        target.load_state_dict(source.state_dict())


def parts(network: Learner) -> list[Learner]:
    """The coarse network, then the refinements in the order of their use."""
    refinements: list[Learner] = []
    while isinstance(network, Down | Blurred | TwoStep):
        if isinstance(network, TwoStep):
            refinements.append(network.second)
        network = network.first if isinstance(network, TwoStep) else network.inner
    return [network, *reversed(refinements)]


def _load(target: nn.Module, source: nn.Module, origin: str) -> None:
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        ours, theirs = (isinstance(network, Symmetric) for network in (target, source))
        hint = f"set coarse_symmetric = {str(theirs).lower()}"
        raise WeightsError(
            f"{origin} holds another architecture",
            hint if ours != theirs else "set initial_part or the model to match",
        ) from error


def example_configs() -> list[Path]:
    """The example configs: in the package, or at the top of a source checkout."""
    return sorted(shipped("_examples", "examples/training").glob("*.toml"))


def write_example(name: str, target: Path, overwrite: bool = False) -> None:
    """Copy an example config. Raises UsageError (no such example), OutputError (it exists)."""
    known = {path.stem: path for path in example_configs()}
    if name not in known:
        raise UsageError(f"no example {name!r}", f"choose one of {', '.join(known)}")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already", "use --overwrite, or name another file")
    with atomic_path(target) as path:
        path.write_bytes(known[name].read_bytes())

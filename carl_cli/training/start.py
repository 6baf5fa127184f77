"""Weights to start from: an earlier run, or a weights folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from carl_cli.errors import InputError, WeightsError
from carl_cli.model.network import ModelConfig, build_network, coarse_network
from carl_cli.model.operators import Down, Registrar, TwoStep
from carl_cli.training.config import TrainConfig, model_at, whole_model
from carl_cli.training.run_folder import has_state, load_state


def initialised(network: Registrar, config: TrainConfig) -> Registrar:
    """The network with the weights, or Ξ's, of `config.initial`; as built without it.

    Raises WeightsError if they belong to another architecture.
    """
    if config.initial is None:
        return network
    source = trained(config.initial)
    if config.initial_part == "coarse":
        _load(coarse_network(network), coarse_network(source), config.initial)
    else:
        _load(network, source, config.initial)
    return network


def trained(path: Path) -> Registrar:
    """The averaged network of a run (best, else last), or that of a weights folder."""
    for name in ("best", "last"):
        if has_state(path, name):
            return averaged(load_state(path, name))[0]
    if (path / "config.json").is_file():
        from carl_cli.weights.folder import load_weights  # reads images' rules: not on GPU nodes

        return load_weights(path).network
    raise InputError(f"{path} is neither a run nor a weights folder")


def averaged(state: dict[str, Any]) -> tuple[Registrar, ModelConfig]:
    """The whole network that a run is making, with the averages of a checkpoint; what its
    stage did not reach yet is the identity."""
    training = TrainConfig.model_validate(state["config"])
    model = whole_model(training, state["number"])
    network, trained_part = build_network(model), build_network(model_at(training, state["number"]))
    trained_part.load_state_dict(state["average"])
    take_over(network, trained_part, copy_last=False)
    return network, model


def take_over(network: Registrar, previous: Registrar, copy_last: bool) -> None:
    """Ξ and the refinements of `previous`; a refinement that it lacks stays as built, or
    becomes a copy of its last one."""
    ours, theirs = parts(network), parts(previous)
    if copy_last and len(theirs) > 1:
        theirs += theirs[-1:] * (len(ours) - len(theirs))
    for target, source in zip(ours, theirs, strict=False):
        target.load_state_dict(source.state_dict())


def parts(network: Registrar) -> list[Registrar]:
    """The coarse network, then the refinements in the order of their use."""
    refinements: list[Registrar] = []
    while isinstance(network, Down | TwoStep):
        if isinstance(network, TwoStep):
            refinements.append(network.second)
        network = network.inner if isinstance(network, Down) else network.first
    return [network, *reversed(refinements)]


def _load(target: nn.Module, source: nn.Module, path: Path) -> None:
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise WeightsError(
            f"{path} holds another architecture", "set initial_part or the model to match"
        ) from error

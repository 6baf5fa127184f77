"""Weights to start from: an earlier run, or a weights folder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from carl_cli.errors import InputError, WeightsError
from carl_cli.model.carl import ModelConfig, build_network, coarse_network
from carl_cli.model.operators import Registrar
from carl_cli.training.checkpoint import has_state, load_state
from carl_cli.training.config import TrainConfig


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
            state = load_state(path, name)
            network = build_network(ModelConfig.model_validate(state["model_now"]))
            network.load_state_dict(state["average"])
            return network
    if (path / "config.json").is_file():
        from carl_cli.weights import load_weights  # reads images' rules: not on GPU nodes

        return load_weights(path).network
    raise InputError(f"{path} is neither a run nor a weights folder")


def _load(target: nn.Module, source: nn.Module, path: Path) -> None:
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise WeightsError(
            f"{path} holds another architecture", "set initial_part or the model to match"
        ) from error

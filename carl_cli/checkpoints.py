"""The authors' published checkpoints → weights folders. The only reader of pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from carl_cli import registry
from carl_cli.errors import UsageError, WeightsError
from carl_cli.integrity import sha256_of
from carl_cli.model.carl import ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.model.published import fits, load_published
from carl_cli.preprocess import PreprocessRule
from carl_cli.preprocessing.rule import IntensityRule
from carl_cli.weights import InstanceDefaults, WeightsConfig, save_weights

# Two networks of CARL were published, before and after the second stage of training.
_CARL = tuple(
    ModelConfig(dimension=dimension, refine_scales=scales)
    for dimension in (3, 2)
    for scales in ((2, 1), (2, 1, 1))
)
_GRADICON = (ModelConfig(coarse="unet", refine_scales=(2, 1, 1)),)
FAMILIES = {"carl": _CARL, "unigradicon": _GRADICON, "multigradicon": _GRADICON}
_GRADICON_SHAPE = (175, 175, 175)
_CARL_CITATION = (
    "Greer et al., CARL: A Framework for Equivariant Image Registration, CVPR 2025, "
    "arXiv:2405.16738"
)


def import_checkpoint(
    file: Path,
    family: str,
    folder: Path,
    shape_zyx: tuple[int, ...] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a weights folder from a state dict, with its family's preprocessing.

    shape_zyx: the grid it was trained on, in voxels; uniGradICON and multiGradICON have their
    own. Numbers are kept in full. Raises WeightsError for another architecture or a pickle
    that holds more than tensors, UsageError for a family or shape that is missing.
    """
    rule = authors_rule(family, shape_zyx)
    state = read_state(file)
    model = _matching(FAMILIES[family], state)
    if len(rule.shape_zyx or ()) != model.dimension:
        raise UsageError(f"--shape {rule.shape_zyx}: the network has {model.dimension} axes")
    network = build_network(model)
    load_published(network, state)
    origin = {"imported_from": file.name, "sha256": sha256_of(file), **(provenance or {})}
    config = _config(folder.name, family, model, rule, origin)
    save_weights(folder, network, config, _card(config, network), exact=True)


def read_state(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a file by torch.save. Code in it is never run. Raises WeightsError."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror or error}") from error
    except UnpicklingError as error:
        raise WeightsError(f"{file} is no state dict, or holds more than tensors") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{file} is damaged, or not a file of torch.save") from error
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise WeightsError(f"{file}: a state dict (names and tensors) was expected")
    return state


def authors_rule(family: str, shape_zyx: tuple[int, ...] | None = None) -> PreprocessRule:
    """How the authors prepare images: https://github.com/uncbiag/uniGradICON, function
    preprocess; for CARL the division by the maximum. Raises UsageError."""
    if family not in FAMILIES:
        raise UsageError(f"no family {family!r}", f"choose one of {', '.join(FAMILIES)}")
    if family == "carl":
        if shape_zyx is None:
            raise UsageError(
                "CARL was trained on a different grid for each dataset", "give it: --shape Z,Y,X"
            )
        intensity = IntensityRule(
            ct_window=None, lower_percentile=None, upper_percentile=100, percentiles_of="image"
        )
    else:
        intensity = IntensityRule(
            ct_window=(-1000, 1000), lower_percentile=0, upper_percentile=99, percentiles_of="image"
        )
    return PreprocessRule(
        grid_rule="stretch",
        shape_zyx=shape_zyx or _GRADICON_SHAPE,
        anti_alias=False,
        intensity=intensity,
    )


def _matching(models: tuple[ModelConfig, ...], state: Mapping[str, torch.Tensor]) -> ModelConfig:
    """The model whose parameters these are; the first one when none fits, to say what differs."""
    with torch.device("meta"):
        return next((m for m in models if fits(build_network(m), state)), models[0])


def _config(
    name: str, family: str, model: ModelConfig, rule: PreprocessRule, origin: dict[str, Any]
) -> WeightsConfig:
    entry = next((e for e in registry.RELEASES if e.family == family), None)
    return WeightsConfig.model_validate(
        {
            "name": name,
            "family": family,
            "licence": entry.licence if entry else "that of the checkpoint",
            "citation": entry.citation if entry else _CARL_CITATION,
            "model": model,
            "preprocess": rule,
            # The step size and length of their own command line.
            "instance": InstanceDefaults(steps=50, learning_rate=2e-5, metric="lncc", sigma=5),
            "provenance": origin,
        }
    )


def _card(config: WeightsConfig, network: Registrar) -> str:
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    origin = "\n".join(f"- {key}: {value}" for key, value in config.provenance.items())
    return (
        f"# {config.name}\n\nThe authors' checkpoint of the {config.family} family, "
        f"{millions:.1f} M parameters, in the layout of carl.\n\n"
        f"{origin}\n- licence: {config.licence}\n\nCite: {config.citation}\n"
    )

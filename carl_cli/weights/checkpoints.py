"""The authors' published checkpoints → weights folders. The only reader of pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from carl_cli.errors import UsageError, WeightsError
from carl_cli.model.network import EncoderConfig, ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.model.published import fits, load_published
from carl_cli.preprocessing.pair import PreprocessRule
from carl_cli.preprocessing.rule import IntensityRule
from carl_cli.weights import registry
from carl_cli.weights.files import digest_of
from carl_cli.weights.folder import InstanceDefaults, WeightsConfig, save_weights


@dataclass(frozen=True)
class Family:
    """models: the networks that were published. The rest is how their authors use them:
    grid (None: another one for each checkpoint), orientation, borders, intensities, fit."""

    models: tuple[ModelConfig, ...]
    intensity: IntensityRule
    instance: InstanceDefaults
    shape_zyx: tuple[int, ...] | None = None
    orientation: str | None = None
    crop_uniform: int | None = None


# The step size and number of steps of all their command lines.
_FIT = InstanceDefaults(steps=50, learning_rate=2e-5, metric="lncc", sigma=5)
# The functions of uncbiag/equivariant_reg_2 and icon_registration 1.1.9, carl.py, that build
# CARL. A U-Net is added to each for the second stage of training.
_FINAL_FINAL = ModelConfig()
_FINAL = ModelConfig(refine_nested=2)
_SMALL_ATTENTION = ModelConfig(refine_nested=2, coarse_scale=8)
_ROTATION = ModelConfig(
    refine_nested=2,
    encoder=EncoderConfig(dilations=(1, 2, 4, 8), half_turns=True),
    extrapolation="reflected by Ξ",
)
_SPARSE = (_SMALL_ATTENTION, _ROTATION)  # GradICON at every second voxel


def _stages(model: ModelConfig) -> tuple[ModelConfig, ModelConfig]:
    return model, model.model_copy(update={"refine_scales": (2, 1, 1)})


_IN_2D = [m.model_copy(update={"dimension": 2}) for m in (_FINAL_FINAL, _FINAL, _SMALL_ATTENTION)]
_CARL = Family(
    models=tuple(
        stage
        for model in (_FINAL_FINAL, _FINAL, _SMALL_ATTENTION, _ROTATION, *_IN_2D)
        for stage in _stages(model)
    ),
    intensity=IntensityRule(
        ct_window=None, lower_percentile=None, upper_percentile=100, percentiles_of="image"
    ),
    instance=replace(_FIT, sigma=4, gradicon_stride=1),
)
# https://github.com/uncbiag/uniGradICON, src/unigradicon/__init__.py: one network, one way to
# prepare images. multiGradICON was trained with the squared LNCC; their command line fits it
# with the LNCC too unless told otherwise (here: --io-metric lncc2).
_GRADICON = Family(
    models=(ModelConfig(coarse="unet", refine_scales=(2, 1, 1)),),
    intensity=IntensityRule(
        ct_window=(-1000, 1000), lower_percentile=0, upper_percentile=99, percentiles_of="image"
    ),
    instance=_FIT,
    shape_zyx=(175, 175, 175),
)
# The package icon_registration 1.1.9, unicarl/. ITK calls by "RAS" what comes from the right.
_UNICARL = Family(
    models=(
        ModelConfig(
            encoder=EncoderConfig(width=384, padding=16, dilations=(1, 1, 1), halvings=2),
            refine_scales=(2, 2, 2, 2, 2, 1),
            refine_unets=(4, 4, 4, 4, 4, 1),
            refine_blurs=(21, 21, 21, 11, 11, 8),
            extrapolation="reflected",
        ),
    ),
    intensity=IntensityRule(
        ct_window=None, lower_percentile=1, upper_percentile=99, percentiles_of="image"
    ),
    instance=replace(_FIT, metric="lncc2", sigma=4, variance_floor=1e-4),
    shape_zyx=(160, 160, 160),
    orientation="LPI",
    crop_uniform=1,
)
FAMILIES = {
    "carl": _CARL,
    "unigradicon": _GRADICON,
    "multigradicon": _GRADICON,
    "unicarl": _UNICARL,
}


def import_checkpoint(
    file: Path,
    family: str,
    folder: Path,
    shape_zyx: tuple[int, ...] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a weights folder from a state dict, with its family's preprocessing.

    shape_zyx: the grid it was trained on, in voxels, where the family has none of its own.
    Numbers are kept in full. Raises WeightsError for another architecture or a pickle
    that holds more than tensors, UsageError for a family or shape that is missing.
    """
    rule = authors_rule(family, shape_zyx)
    state = read_state(file)
    model = _matching(FAMILIES[family].models, state)
    if len(rule.shape_zyx or ()) != model.dimension:
        raise UsageError(f"--shape {rule.shape_zyx}: the network has {model.dimension} axes")
    network = build_network(model)
    load_published(network, state)
    origin = {"imported_from": file.name, "sha256": digest_of(file), **(provenance or {})}
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
    """How the authors prepare images. Raises UsageError."""
    if family not in FAMILIES:
        raise UsageError(f"no family {family!r}", f"choose one of {', '.join(FAMILIES)}")
    known = FAMILIES[family]
    if shape_zyx is None and known.shape_zyx is None:
        raise UsageError(
            "CARL was trained on a different grid for each dataset", "give it: --shape Z,Y,X"
        )
    return PreprocessRule(
        grid_rule="stretch",
        shape_zyx=shape_zyx or known.shape_zyx,
        orientation=known.orientation,
        crop_uniform=known.crop_uniform,
        anti_alias=False,
        intensity=known.intensity,
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
            "citation": entry.citation if entry else registry.CARL_CITATION,
            "model": model,
            "preprocess": rule,
            "instance": _instance(family, model),
            "provenance": origin,
        }
    )


def _instance(family: str, model: ModelConfig) -> InstanceDefaults:
    sparse = any(model in _stages(trained) for trained in _SPARSE)
    found = FAMILIES[family].instance
    return replace(found, gradicon_stride=2) if sparse else found


def _card(config: WeightsConfig, network: Registrar) -> str:
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    origin = "\n".join(f"- {key}: {value}" for key, value in config.provenance.items())
    return (
        f"# {config.name}\n\nThe authors' checkpoint of the {config.family} family, "
        f"{millions:.1f} M parameters, in the layout of carl.\n\n"
        f"{origin}\n- licence: {config.licence}\n\nCite: {config.citation}\n"
    )

"""Weights folders: config.json + model.safetensors + README.md, on disk as on the Hub.

A folder says all that a network needs to be used rightly: its architecture, the grid and
intensities that it was trained on, and the instance optimisation that suits it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from carl_cli.errors import WeightsError, told
from carl_cli.io.atomic import atomic_path, make_folder
from carl_cli.model.devices import multiplies_bfloat16
from carl_cli.model.execution import set_execution
from carl_cli.model.network import ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.model.similarity import VARIANCE_FLOOR
from carl_cli.model.tissues import TissueConfig, TissueNetwork
from carl_cli.preprocessing.options import option_group
from carl_cli.preprocessing.pair import PreprocessRule
from carl_cli.weights.files import CARD, CONFIG, MODEL, check_files, check_regular, digest_of
from carl_cli.weights.options import InstanceChoices
from carl_cli.weights.selftest import figures

TISSUES = "tissues."  # before the names of that network's tensors


@option_group
class InstanceDefaults(InstanceChoices):
    """Instance optimisation that was found to suit these weights, as their config.json has it."""

    variance_floor: Annotated[float, Field(gt=0)] = VARIANCE_FLOOR  # inside that window
    gradicon_stride: Annotated[int, Field(ge=1)] = 2  # all, refine: voxels between its points
    patience: Annotated[int, Field(ge=0)] = 0  # all, refine: steps without gain until they stop


class AlignmentRule(BaseModel):
    """How the maps of these weights are aligned on self-similarity, see registration.alignment."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: Annotated[int, Field(ge=1, le=1000)] = 24  # at most, times the scale's factor
    smoothing: Annotated[float, Field(ge=0.1)] = 2.0  # of each step, in voxels of the scale
    elasticity: Annotated[float, Field(ge=0)] = 0.35  # of the whole field, in voxels of the scale
    noise_floor: Annotated[float, Field(gt=0)] = 2e-3  # of squared differences: below is noise


class WeightsConfig(BaseModel):
    """config.json. files: SHA-256 of each file that is used. self_test: see selftest.figures;
    none in folders that were written by hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format_version: Literal[1] = 1
    name: str
    family: Literal["carl", "unigradicon", "multigradicon", "unicarl"] = "carl"
    licence: str = "Apache-2.0"
    citation: str = ""
    model: ModelConfig
    preprocess: PreprocessRule
    alignment: AlignmentRule | None = None  # None, as in the paper: the network's maps as they are
    tissues: TissueConfig | None = None  # a network of its own, which alignment uses on brains
    instance: InstanceDefaults = InstanceDefaults()
    provenance: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    self_test: tuple[float, ...] = ()


@dataclass(frozen=True)
class Weights:
    """A network ready to use, and where it came from. sha256: of model.safetensors."""

    network: Registrar
    config: WeightsConfig
    source: str
    sha256: str
    tissues: TissueNetwork | None = None

    @property
    def device(self) -> str:
        return str(next(self.network.parameters()).device)

    def prepared_by(self, rule: PreprocessRule) -> Weights:
        """The same network for pairs that another rule prepares."""
        return replace(self, config=self.config.model_copy(update={"preprocess": rule}))


def load_weights(folder: str | Path, device: str = "cpu") -> Weights:
    """The network of a weights folder, checked against its hash, in eval mode.

    Raises WeightsError when a file is missing, damaged, or doesn't fit its config.
    """
    folder = Path(folder)
    config = read_config(folder)
    sha256 = check_files(folder, config.files)
    parts = _built(config, folder)
    _load_tensors(parts, folder / MODEL)
    parts.to(device)
    tissues = None if parts.tissues is None else _quick(parts.tissues, device)
    return Weights(parts.network, config, str(folder), sha256, tissues)


class _Parts(nn.Module):
    """What model.safetensors holds: the network by its own names, tissues. before the others."""

    def __init__(self, network: Registrar, tissues: TissueNetwork | None) -> None:
        super().__init__()
        self.network, self.tissues = network, tissues


def _build(config: WeightsConfig) -> _Parts:
    tissues = None if config.tissues is None else TissueNetwork(config.tissues).eval()
    return _Parts(build_network(config.model), tissues)


def _quick(tissues: TissueNetwork, device: str) -> TissueNetwork:
    """Shares of tissues bear the rounding of bfloat16, which a processor may multiply faster."""
    tissues.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    low = device == "cpu" and multiplies_bfloat16()
    return set_execution(tissues, TissueNetwork, bfloat16=low)


def _built(config: WeightsConfig, folder: Path) -> _Parts:
    """First without memory: config.json may be damaged and ask for any number of channels."""
    try:
        with torch.device("meta"):
            count = sum(p.numel() for p in _build(config).parameters())
    except (ValueError, RuntimeError, TypeError, IndexError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{folder / CONFIG}: no network can be built: {reason}") from None
    held = (folder / MODEL).stat().st_size
    if count > held:
        raise WeightsError(
            f"{folder / CONFIG}: a network of {count} numbers, {MODEL} has {held} bytes"
        )
    return _build(config)


def read_config(folder: Path) -> WeightsConfig:
    """Raises WeightsError naming the first field that is wrong."""
    path = folder / CONFIG
    check_regular(path)
    try:
        return WeightsConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}", "name a folder that holds it") from error
    except ValidationError as error:
        raise WeightsError(f"{path}: {told(error.errors()[0])}") from error


def _load_tensors(parts: _Parts, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file: {error}") from error
    broken = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(f"{path}: {broken[0]} holds numbers that are not finite")
    try:
        # Stored as float16 to be small; computed with in float32.
        parts.load_state_dict(
            {_inner(k): v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip()
        raise WeightsError(f"{path} does not fit the architecture in {CONFIG}: {reason}") from error


def _inner(name: str) -> str:
    return name if name.startswith(TISSUES) else f"network.{name}"


def save_weights(
    folder: str | Path,
    network: Registrar,
    config: WeightsConfig,
    card: str,
    exact: bool = False,
    tissues: TissueNetwork | None = None,
) -> None:
    """Write a weights folder: tensors, config with their hash and figures, model card.

    exact: tensors as they are; else floating point ones as float16. Raises OutputError.
    """
    from safetensors.torch import save

    folder = make_folder(Path(folder))
    state = network.state_dict()
    if tissues is not None:
        state |= tissues.state_dict(prefix=TISSUES)
    tensors = {key: _stored(value, exact) for key, value in state.items()}
    # save_file would make a file that nobody but its owner can read.
    _write(folder / MODEL, save(tensors))
    known = {
        "files": {MODEL: digest_of(folder / MODEL)},
        "self_test": _figures_of_stored(folder, config),
    }
    values = config.model_copy(update=known).model_dump(mode="json")
    _write(folder / CONFIG, (json.dumps(values, indent=2) + "\n").encode())
    _write(folder / CARD, card.encode())


def _figures_of_stored(folder: Path, config: WeightsConfig) -> tuple[float, ...]:
    """Of the numbers as they are on disk: rounding to float16 belongs to the weights."""
    parts = _build(config)
    _load_tensors(parts, folder / MODEL)
    return figures(parts.network, config.model)


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _stored(value: torch.Tensor, exact: bool) -> torch.Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if value.is_floating_point() and not exact else value

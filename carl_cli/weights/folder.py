"""Weights folders: config.json + model.safetensors + README.md, on disk as on the Hub.

A folder says all that a network needs to be used rightly: its architecture, the grid and
intensities that it was trained on, and the instance optimisation that suits it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carl_cli.errors import OutputError, WeightsError
from carl_cli.io.atomic import atomic_path
from carl_cli.model.network import ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.model.similarity import VARIANCE_FLOOR
from carl_cli.preprocessing.pair import PreprocessRule
from carl_cli.weights.files import CARD, CONFIG, MODEL, check_files, sha256_of
from carl_cli.weights.selftest import figures


class InstanceDefaults(BaseModel):
    """Instance optimisation that was found to suit these weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(default=50, ge=0)
    learning_rate: float = Field(default=2e-5, gt=0)
    metric: Literal["lncc", "lncc2", "mind"] = "lncc"
    sigma: int = Field(default=5, ge=1)
    variance_floor: float = Field(default=VARIANCE_FLOOR, gt=0)
    regularisation: float = Field(default=1.5, ge=0)
    gradicon_stride: int = Field(default=2, ge=1)
    smoothing: float = Field(default=2.0, gt=0)
    scope: Literal["all", "refine", "field"] = "all"
    patience: int = Field(default=0, ge=0)


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
    network = _built(config.model, folder)
    _load_tensors(network, folder / MODEL)
    return Weights(network.to(device), config, str(folder), sha256)


def _built(model: ModelConfig, folder: Path) -> Registrar:
    """First without memory: config.json may be damaged and ask for any number of channels."""
    try:
        with torch.device("meta"):
            count = sum(p.numel() for p in build_network(model).parameters())
    except (ValueError, RuntimeError, TypeError, IndexError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{folder / CONFIG}: no network can be built: {reason}") from None
    held = (folder / MODEL).stat().st_size
    if count > held:
        raise WeightsError(
            f"{folder / CONFIG}: a network of {count} numbers, {MODEL} has {held} bytes"
        )
    return build_network(model)


def read_config(folder: Path) -> WeightsConfig:
    """Raises WeightsError naming the first field that is wrong."""
    path = folder / CONFIG
    try:
        return WeightsConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}", "name a folder that holds it") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{path}: {where or 'the file'}: {first['msg']}") from error


def _load_tensors(network: Registrar, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file: {error}") from error
    try:
        # Stored as float16 to be small; computed with in float32.
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip()
        raise WeightsError(f"{path} does not fit the architecture in {CONFIG}: {reason}") from error


def save_weights(
    folder: str | Path, network: Registrar, config: WeightsConfig, card: str, exact: bool = False
) -> None:
    """Write a weights folder: tensors, config with their hash and figures, model card.

    exact: tensors as they are; else floating point ones as float16. Raises OutputError.
    """
    from safetensors.torch import save

    folder = _made(Path(folder))
    tensors = {key: _stored(value, exact) for key, value in network.state_dict().items()}
    # save_file would make a file that nobody but its owner can read.
    _write(folder / MODEL, save(tensors))
    known = {
        "files": {MODEL: sha256_of(folder / MODEL)},
        "self_test": _figures_of_stored(folder, config.model),
    }
    values = config.model_copy(update=known).model_dump(mode="json")
    _write(folder / CONFIG, (json.dumps(values, indent=2) + "\n").encode())
    _write(folder / CARD, card.encode())


def _figures_of_stored(folder: Path, model: ModelConfig) -> tuple[float, ...]:
    """Of the numbers as they are on disk: rounding to float16 belongs to the weights."""
    network = build_network(model)
    _load_tensors(network, folder / MODEL)
    return figures(network, model)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: can't be made: {error.strerror}", "choose another folder"
        ) from error
    return folder


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _stored(value: torch.Tensor, exact: bool) -> torch.Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if value.is_floating_point() and not exact else value

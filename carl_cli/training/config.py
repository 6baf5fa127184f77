"""What a training run is: a TOML file, checked as a whole before anything starts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from carl_cli.errors import InputError, UsageError, told
from carl_cli.io.atomic import regular
from carl_cli.model.network import ModelConfig
from carl_cli.model.tissues import MULTIPLE
from carl_cli.training.synthesis.pairs import SynthesisSettings
from carl_cli.training.tables import (
    Data,
    KeepingConfig,
    RuntimeConfig,
    StageConfig,
    Strict,
    SyntheticData,
    TissueTable,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAY_CHANGE = ("runtime.", "keeping.", "data.cache")  # when a run goes on
ABSENT = "nothing"
TISSUE_TERMS = {"classes", "coarse_classes", "dice"}


def _folder_name(name: str) -> str:
    if name in ("", ".", "..") or re.search(r"[/\\\x00-\x1f]", name):
        raise ValueError("a name for a folder expected, without / and \\")
    return name


class TrainConfig(Strict):
    """A whole run."""

    name: Annotated[str, AfterValidator(_folder_name)]
    seed: int = 0
    model: ModelConfig = ModelConfig()
    tissues: TissueTable | None = None  # instead of the model: what stages of kind tissues train
    data: Data = SyntheticData()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    runtime: RuntimeConfig = RuntimeConfig()
    keeping: KeepingConfig = KeepingConfig()
    initial: str | None = None  # start from a run's folder, or weights by name, folder or Hub
    initial_part: Literal["all", "coarse"] = "all"  # coarse: its Ξ only
    preprocess: dict[str, Any] = Field(default_factory=dict)  # the rule for images
    # More fields for the config.json of the weights: licence, citation, instance; also preprocess,
    # where they will be used by another rule than they were trained by.
    weights: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _stages_fit_the_rest(self) -> TrainConfig:
        if self.model.channels != 1:
            raise ValueError("training is for images of one channel")
        if self.model.dimension != 3 and self.data.kind == "images":
            raise ValueError("training in 2D is for rendered and given pairs")
        if self.model.refine_nested:
            raise ValueError("networks with refine_nested can't be trained, leave it out")
        for stage in self.stages:
            self._check_kind(stage)
        if self.tissues is not None:
            self._check_tissues()
        for stage in self.stages:
            self._check(stage)
        counts = [len(model_at(self, k).refine_scales) for k in range(len(self.stages))]
        if counts != sorted(counts):
            raise ValueError(f"refinements must not become fewer; they are {counts} by stage")
        for stage, count in zip(self.stages, counts, strict=True):
            if stage.train == "refinements" and not count:
                raise ValueError(f"stage {stage.name}: no refinements (Ψ) in this network to learn")
        return self

    def _check_kind(self, stage: StageConfig) -> None:
        if (stage.kind == "tissues") != (self.tissues is not None):
            raise ValueError(
                f"stage {stage.name}: kind = tissues and a table [tissues] go together, in all "
                "stages of a run"
            )
        terms = set(stage.loss.model_dump(exclude_defaults=True))
        if stage.kind == "tissues":
            if terms - TISSUE_TERMS or not stage.loss.classes:
                wanted = ", ".join(sorted(TISSUE_TERMS))
                raise ValueError(f"stage {stage.name}: kind = tissues has the losses {wanted}")
            of_others = stage.levels, stage.padding, stage.extra_step, stage.train
            if of_others != (None, None, False, "all"):
                raise ValueError(
                    f"stage {stage.name}: levels, padding, extra_step and train are not for tissues"
                )
        elif terms & {"classes", "coarse_classes"}:
            raise ValueError(f"stage {stage.name}: loss.classes needs kind = tissues")

    def _check_tissues(self) -> None:
        if self.model.dimension != 3 or self.data.kind != "synthetic":
            raise ValueError("tissues are learned from rendered volumes, in 3D")
        if not (self.data.maps and self.data.validation):
            raise ValueError("tissues need label maps, and others for validation")
        if self.initial is None:
            raise ValueError("tissues need initial: the weights that they will stand beside")
        if self.model != ModelConfig() or self.preprocess:
            raise ValueError("[model] and [preprocess] are those of initial, leave them out")
        for stage in self.stages:
            if any(n % MULTIPLE for n in stage.shape_zyx or ()):
                raise ValueError(f"stage {stage.name}: shape_zyx needs multiples of {MULTIPLE}")

    def _check(self, stage: StageConfig) -> None:
        model, refines = self.model, stage.kind == "refinement"
        if refines and not (model.refine_symmetric and model.refine_scales == (2, 1)):
            raise ValueError(f"stage {stage.name}: needs refine_scales = 2, 1 and refine_symmetric")
        if refines and (self.data.kind != "synthetic" or stage.levels is not None):
            raise ValueError(f"stage {stage.name}: needs rendered pairs and all levels")
        if stage.loss.refinement and model.refine_symmetric and not refines:
            raise ValueError(
                f"stage {stage.name}: refine_symmetric leaves nothing to tell loss.refinement "
                f"what a Ψ added; take loss.regularity"
            )
        if stage.loss.uses_attention and self.model.coarse != "attention":
            raise ValueError(f"stage {stage.name}: attention losses need coarse = attention")
        described = self.model.refine_unets or self.model.refine_blurs
        if described and (stage.extra_step or stage.levels is not None):
            raise ValueError(
                f"stage {stage.name}: levels and extra_step can't go with refine_unets"
            )
        if self.data.kind == "synthetic":
            self.synthesis(stage)

    def synthesis(self, stage: StageConfig) -> SynthesisSettings:
        """Settings of a stage: those of the data, changed by the stage, on its grid."""
        assert isinstance(self.data, SyntheticData)
        fields = {**self.data.synthesis, **stage.synthesis}
        settings = TypeAdapter(SynthesisSettings).validate_python(fields)
        if stage.shape_zyx is None:
            raise ValueError(f"stage {stage.name}: rendered pairs need shape_zyx")
        if len(stage.shape_zyx) != self.model.dimension:
            raise ValueError(f"stage {stage.name}: shape_zyx needs {self.model.dimension} numbers")
        return replace(settings, shape_zyx=stage.shape_zyx)


def whole_model(config: TrainConfig, stage_number: int) -> ModelConfig:
    """The network that the run is making: with the extra steps appended so far."""
    extra = sum(s.extra_step for s in config.stages[: stage_number + 1])
    scales = config.model.refine_scales + (1,) * extra
    return config.model.model_copy(update={"refine_scales": scales})


def model_at(config: TrainConfig, stage_number: int) -> ModelConfig:
    """The network that a stage runs: cut to its levels, with its padding.

    Raises ValueError for more levels than there are.
    """
    stage, model = config.stages[stage_number], whole_model(config, stage_number)
    encoder, coarse, scales = model.encoder, model.coarse_scale, model.refine_scales
    windows = list(model.window_scales)
    if stage.padding is not None:
        encoder = encoder.model_copy(update={"padding": stage.padding})
    if stage.levels is not None:
        if stage.levels > len(scales):
            raise ValueError(f"stage {stage.name}: levels {stage.levels} of {len(scales)}")
        scales = scales[: stage.levels]
        finest = scales[-1] if scales else coarse
        coarse, *windows = (s // finest for s in (coarse, *windows) if s >= finest)
        scales = tuple(s // finest for s in scales)
    update = {"encoder": encoder, "coarse_scale": coarse, "refine_scales": scales}
    return model.model_copy(update={**update, "window_scales": tuple(windows)})


def load_config(path: Path) -> TrainConfig:
    """Read and check a TOML file. Raises InputError (no such file, not TOML) and UsageError
    (a key that is unknown, missing or out of range; names it)."""
    try:
        tables = tomllib.loads(regular(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "name a training config (TOML)") from error
    except (ValueError, RecursionError) as error:  # of a number of 5,000 digits, too
        raise InputError(f"{path} is not TOML: {error}") from error
    try:
        return TrainConfig.model_validate(tables)
    except ValidationError as error:
        raise UsageError(
            f"{path}: {told(error.errors()[0])}", "see examples/training for configs that work"
        ) from error


def check_same_experiment(before: dict[str, Any], now: TrainConfig, out: Path) -> None:
    """Raises UsageError if a run was begun with another config (as model_dump gives it).

    What may change: runtime, keeping, and where the cache lies.
    """
    try:  # what a newer version has more is at its default
        began = TrainConfig.model_validate(before)
    except ValidationError as error:
        hint = "name another --out, or go on with that version"
        raise UsageError(f"{out} holds a run of another version of carl", hint) from error
    old, new = (dict(_flat(c.model_dump(mode="json"))) for c in (began, now))
    for key in sorted({*old, *new}):
        a, b = old.get(key, ABSENT), new.get(key, ABSENT)
        free = key.startswith(MAY_CHANGE) and key != "keeping.average_decay"
        if a != b and not free:
            raise UsageError(
                f"{out} holds a run with {key} = {a}, the config says {b}",
                "name another --out for another experiment, or set the key back",
            )


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested tables and lists with its place, as in stages.0.loss.sigma."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list) and inner:
            yield from _flat(inner, f"{place}{key}.")
        else:
            yield f"{place}{key}", inner

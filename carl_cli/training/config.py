"""What a training run is: a TOML file, checked as a whole before anything starts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from carl_cli.errors import InputError, UsageError
from carl_cli.model.network import ModelConfig
from carl_cli.model.similarity import NAMES as METRICS
from carl_cli.training.synthesis.pairs import SynthesisSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Strict(BaseModel):
    """A table of the file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SyntheticData(Strict):
    """Pairs rendered from random shapes and, with `maps`, from prepared label maps.

    train, validation: subjects of `maps`; validation pairs come from random shapes of
    another seed where no subjects are named. synthesis: fields of SynthesisSettings.
    """

    kind: Literal["synthetic"] = "synthetic"
    maps: Path | None = None
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    synthesis: dict[str, Any] = {}

    @model_validator(mode="after")
    def _subjects_are_disjoint(self) -> SyntheticData:
        both = sorted(set(self.train) & set(self.validation))
        if both:
            raise ValueError(f"{both[0]} is used for training and for validation")
        if self.maps is not None and not self.train:
            raise ValueError("maps without the names of the subjects to train on")
        return self


class ImageData(Strict):
    """Images of a folder, or of a CSV with a column `image` (all against all) or columns
    `fixed` and `moving` (those pairs, in both orders). `cache` holds each image once, as the
    network sees it. The last `held_out` images, or pairs, are kept for validation.

    flips: the same random flips and permutation of axes for both; affine_noise: standard
    deviation of independent affine jitter, in the half-widths of the image (GradICON: 0.05).
    """

    kind: Literal["images"]
    images: Path
    cache: Path
    held_out: int = Field(default=0, ge=0)
    flips: bool = False
    affine_noise: float = Field(default=0.0, ge=0)


Data = Annotated[SyntheticData | ImageData, Field(discriminator="kind")]


class LossWeights(Strict):
    """Weight of each term; 0 leaves it out.

    On the attention rows of Ξ at `queries` random fixed voxels:
      attention    cross-entropy against a Gaussian (0.6 voxel) at the true place
      position     Huber loss of the mean position, voxels of Ξ
      same_label   - log of the attention that falls on the label of the query (two people)
    On the maps of the whole network:
      similarity   `metric` with a window of σ, for the contrasts in `similar_contrasts`
      dice         1 - soft Dice of up to `dice_labels` labels
      field        Huber loss of phi in voxels, pairs with known correspondence
      regularity   `regulariser` of the whole map; paper: 1.5
      refinement   diffusion energy (voxels) of what each Ψ adds: no cost for affine parts
    """

    attention: float = Field(default=0.0, ge=0)
    position: float = Field(default=0.0, ge=0)
    same_label: float = Field(default=0.0, ge=0)
    queries: int = Field(default=1000, ge=1)
    similarity: float = Field(default=0.0, ge=0)
    metric: str = "lncc"
    sigma: int = Field(default=4, ge=1)
    similar_contrasts: tuple[str, ...] = ("same",)
    dice: float = Field(default=0.0, ge=0)
    dice_labels: int = Field(default=12, ge=1)
    field: float = Field(default=0.0, ge=0)
    regularity: float = Field(default=0.0, ge=0)
    regulariser: Literal["diffusion", "gradicon"] = "gradicon"
    refinement: float = Field(default=0.0, ge=0)
    gradicon_stride: Literal[1, 2] = 1

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossWeights:
        terms = (self.attention, self.position, self.same_label)
        if not any((*terms, self.similarity, self.dice, self.field)):
            raise ValueError("all weights of the loss are 0")
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r}: known are {', '.join(METRICS)}")
        return self

    @property
    def uses_attention(self) -> bool:
        return bool(self.attention or self.position or self.same_label)


class StageConfig(Strict):
    """One stretch of training with one loss and an optimiser of its own.

    kind: `correspondence` trains Ξ alone on sampled attention rows; `registration` runs the
    whole network. batch: pairs at once on each device; accumulate: batches per step.
    levels: how many refinements run, with the last of them at full resolution: a model of
    scales 4, 2, 1 has at levels 1 its Ξ at 1/2 and one Ψ at 1, so that a small grid trains
    what a large one uses. None: all. padding: of Ξ during this stage, if not the model's (it
    costs memory and has no weights). extra_step: one more full-resolution refinement is
    appended first (the paper's second stage). new_refinement: a Ψ that the stage before did
    not have starts as the identity or as a copy of the last one. train: which part learns.
    batch_norm: `batch` uses the statistics of the batch and keeps running ones, `frozen`
    uses the kept ones. synthesis: changes to that of the data.
    """

    name: str
    kind: Literal["correspondence", "registration"] = "registration"
    steps: int = Field(ge=1)
    shape_zyx: tuple[int, int, int]
    batch: int = Field(default=1, ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    train: Literal["all", "coarse", "refinements"] = "all"
    batch_norm: Literal["batch", "frozen"] = "batch"
    levels: int | None = Field(default=None, ge=0)
    padding: int | None = Field(default=None, ge=0)
    extra_step: bool = False
    new_refinement: Literal["identity", "copy"] = "identity"
    loss: LossWeights
    synthesis: dict[str, Any] = {}


class RuntimeConfig(Strict):
    """device: auto, cpu, cuda or cuda:N. bfloat16: autocast of the convolutions.
    gradient_checkpointing: recompute each encoder and U-Net in the backward pass.
    channels_last: memory layout of the convolutions."""

    device: str = "auto"
    bfloat16: bool = False
    gradient_checkpointing: bool = False
    channels_last: bool = False
    compile: bool = False


class KeepingConfig(Strict):
    """How often to save and measure. part_mib: checkpoints in parts of at most this size."""

    checkpoint_seconds: float = Field(default=120.0, ge=0)
    part_mib: int | None = Field(default=None, ge=1)
    log_steps: int = Field(default=1, ge=1)
    tensorboard: bool = False
    validate_steps: int = Field(default=1000, ge=1)
    validation_pairs: int = Field(default=6, ge=0)
    average_decay: float = Field(default=0.999, ge=0, lt=1)


class TrainConfig(Strict):
    """A whole run. initial: a run or a weights folder to start from; `initial_part` coarse
    takes its Ξ only. preprocess: the preprocessing rule that the weights will carry."""

    name: str
    seed: int = 0
    model: ModelConfig = ModelConfig()
    data: Data = SyntheticData()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    runtime: RuntimeConfig = RuntimeConfig()
    keeping: KeepingConfig = KeepingConfig()
    initial: Path | None = None
    initial_part: Literal["all", "coarse"] = "all"
    preprocess: dict[str, Any] = {}

    @model_validator(mode="after")
    def _stages_fit_the_rest(self) -> TrainConfig:
        if self.model.dimension != 3 or self.model.channels != 1:
            raise ValueError("training is for 3D images of one channel")
        if self.model.refine_unets or self.model.refine_blurs or self.model.encoder.halvings:
            raise ValueError("training is not for networks with uniCARL's parts")
        for stage in self.stages:
            if stage.loss.refinement and self.model.refine_symmetric:
                raise ValueError(
                    f"stage {stage.name}: refine_symmetric leaves nothing to tell loss.refinement "
                    f"what a Ψ added; take loss.regularity"
                )
            if stage.loss.uses_attention and self.model.coarse != "attention":
                raise ValueError(f"stage {stage.name}: attention losses need coarse = attention")
            if self.data.kind == "synthetic":
                self.synthesis(stage)
        counts = [len(model_at(self, k).refine_scales) for k in range(len(self.stages))]
        if counts != sorted(counts):
            raise ValueError(f"refinements must not become fewer; they are {counts} by stage")
        return self

    def synthesis(self, stage: StageConfig) -> SynthesisSettings:
        """Settings of a stage: those of the data, changed by the stage, on its grid."""
        assert isinstance(self.data, SyntheticData)
        fields = {**self.data.synthesis, **stage.synthesis}
        settings = TypeAdapter(SynthesisSettings).validate_python(fields)
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
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "name a training config (TOML)") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    try:
        return TrainConfig.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"{path}: {place}: {first['msg']}", "see examples/training for configs that work"
        ) from error

"""The tables of a training config: data, stages, losses, runtime, keeping."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from carl_cli.model.similarity import LOSSES
from carl_cli.model.tissues import TissueConfig, Width
from carl_cli.training.synthesis.appearance import CONTRASTS

assert CONTRASTS == ("same", "near", "unrelated")  # the choices of ImageSet.contrast


class Strict(BaseModel):
    """A table of the file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SyntheticData(Strict):
    """Pairs rendered from random shapes and, with `maps`, from prepared label maps."""

    kind: Literal["synthetic"] = "synthetic"
    maps: Path | None = None  # .npz, as `carl train prepare` writes them
    train: tuple[str, ...] = ()  # subjects of `maps`
    validation: tuple[str, ...] = ()  # other subjects; none: random shapes of another seed
    synthesis: dict[str, Any] = {}  # fields of SynthesisSettings

    @model_validator(mode="after")
    def _subjects_are_disjoint(self) -> SyntheticData:
        both = sorted(set(self.train) & set(self.validation))
        if both:
            raise ValueError(f"{both[0]} is used for training and for validation")
        if self.maps is not None and not self.train:
            raise ValueError("maps without the names of the subjects to train on")
        return self


class ImageSet(Strict):
    """Images that are paired with each other.

    `images` is a folder, or a CSV table with the columns `image` (all against all) or `fixed` and
    `moving` (those pairs, in both orders). Paths in a table are relative to the table. What
    belongs to an image stands in the columns `segmentation` and `mask` (`fixed_segmentation`,
    `moving_segmentation`, `fixed_mask`, `moving_mask` beside pairs), or in a folder of files of
    the same names.
    """

    images: Path
    segmentations: Path | None = None  # folder beside a folder of images
    masks: Path | None = None  # folder; losses count inside of masks only
    weight: float = Field(default=1.0, gt=0)  # pairs are drawn from sets in this proportion
    modality: Literal["auto", "ct", "mr"] = "auto"
    contrast: Literal["same", "near", "unrelated"] = "same"  # of two images of this set
    held_out: int = Field(default=0, ge=0)  # the last images, or pairs, are kept for validation


class ImageData(Strict):
    """Real images. With one set, its keys may stand here instead of in [[data.sets]]."""

    kind: Literal["images"]
    sets: tuple[ImageSet, ...] = Field(min_length=1)
    cache: Path  # holds each image once, as the network sees it; may be shared by runs
    flips: bool = False  # the same random flips and permutation of axes for both images
    affine_noise: float = Field(default=0.0, ge=0)  # σ of affine jitter, half-widths of the image
    recolour: float = Field(default=0.0, ge=0, le=1)  # share of pairs with other intensities

    @model_validator(mode="before")
    @classmethod
    def _one_set_in_short(cls, values: Any) -> Any:
        """{"images": …} → {"sets": [{"images": …}]}."""
        if not isinstance(values, dict) or "images" not in values:
            return values
        if "sets" in values:
            raise ValueError("images and sets: give one of them")
        own = {key: values[key] for key in ImageSet.model_fields if key in values}
        return {k: v for k, v in values.items() if k not in own} | {"sets": [own]}


class GivenData(Strict):
    """Pairs that a program makes itself and hands to `train`: not for a file."""

    kind: Literal["given"]


Data = Annotated[SyntheticData | ImageData | GivenData, Field(discriminator="kind")]


class TissueClass(Strict):
    """What the network is to tell from all else."""

    name: str
    label: int  # of the files of label maps; labels that share its tissue (the other side) count


class TissueTable(Strict):
    """A network that tells tissues, see `model.tissues`; beside those of `initial`."""

    classes: tuple[TissueClass, ...] = Field(min_length=1, max_length=254)
    widths: tuple[Width, Width, Width] = TissueConfig.model_fields["widths"].default

    @property
    def network(self) -> TissueConfig:
        names = (one.name for one in self.classes)
        return TissueConfig(classes=("air", "no brain", *names), widths=self.widths)

    @model_validator(mode="after")
    def _a_network_of_different_classes(self) -> TissueTable:
        for field in ("name", "label"):
            values = [getattr(one, field) for one in self.classes]
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"two classes have the {field} {twice[0]}")
        return self


class LossWeights(Strict):
    """Weight of each term; 0 leaves it out."""

    # On the attention rows of Ξ at `queries` random fixed voxels:
    attention: float = Field(default=0.0, ge=0)  # cross-entropy against a Gaussian (0.6 voxel)
    position: float = Field(default=0.0, ge=0)  # Huber loss of the mean position, voxels of Ξ
    same_label: float = Field(default=0.0, ge=0)  # -log of the attention on the query's label
    queries: int = Field(default=1000, ge=1)
    # On the maps of the whole network, forward and backward:
    similarity: float = Field(default=0.0, ge=0)  # sum of both directions (Eq. 17, 18): paper 1
    metric: str = "lncc"
    sigma: int = Field(default=4, ge=1)  # of the metric's window, voxels
    similar_contrasts: tuple[str, ...] = ("same",)  # pairs that `similarity` is asked of
    dice: float = Field(default=0.0, ge=0)  # 1 - soft Dice of labels, mean of both directions
    dice_labels: int = Field(default=12, ge=1)  # at most so many at once
    field: float = Field(default=0.0, ge=0)  # Huber loss of the known correspondence, voxels
    regularity: float = Field(default=0.0, ge=0)  # `regulariser` of the whole map: paper 1.5
    regulariser: Literal["diffusion", "gradicon"] = "gradicon"
    gradicon_stride: Literal[1, 2] = 1  # 2: every second voxel along each axis
    refinement: float = Field(default=0.0, ge=0)  # diffusion (voxels) of what each Ψ adds
    # On the shares of tissues, beside `dice`:
    classes: float = Field(default=0.0, ge=0)  # cross-entropy
    coarse_classes: float = Field(default=0.0, ge=0)  # the same of a head at a quarter of the grid

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossWeights:
        terms = (self.attention, self.position, self.same_label)
        if not any((*terms, self.similarity, self.dice, self.field, self.classes)):
            raise ValueError("all weights of the loss are 0")
        if self.metric not in LOSSES:
            raise ValueError(f"metric {self.metric!r}: known are {', '.join(LOSSES)}")
        return self

    @property
    def uses_attention(self) -> bool:
        return bool(self.attention or self.position or self.same_label)


class StageConfig(Strict):
    """One stretch of training with one loss and an optimiser of its own."""

    name: str
    # correspondence: Ξ alone on sampled attention rows; registration: the whole network;
    # refinement: one Ψ for both scales, behind a Ξ whose maps are kept (see `refining`);
    # tissues: the network of [tissues], on single images that are kept for a while.
    kind: Literal["correspondence", "registration", "refinement", "tissues"] = "registration"
    steps: int = Field(ge=1)
    # Of the pairs, voxels. None: large enough for all images (not for rendered pairs).
    shape_zyx: tuple[int, int, int] | tuple[int, int] | None = None
    batch: int = Field(default=1, ge=1)  # pairs at once on each device
    accumulate: int = Field(default=1, ge=1)  # batches per step
    learning_rate: float = Field(default=1e-4, gt=0, le=1e30)  # of Adam; above it float32 overflows
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"  # after the warm-up
    warmup_steps: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    train: Literal["all", "coarse", "refinements"] = "all"  # the part that learns
    # batch: statistics of the batch, and running ones are kept; frozen: the running ones.
    batch_norm: Literal["batch", "frozen"] = "batch"
    # How many refinements run, with the last of them at full resolution, so that a small grid
    # trains what a large one uses: scales 4, 2, 1 at levels 1 are Ξ at 1/2 and Ψ at 1. None: all.
    levels: int | None = Field(default=None, ge=0)
    padding: int | None = Field(default=None, ge=0)  # of Ξ in this stage, if not the model's
    extra_step: bool = False  # first append one more Ψ at full resolution
    new_refinement: Literal["identity", "copy"] = "identity"  # a new Ψ starts so; copy: of the last
    fresh_every: int = Field(default=12, ge=1)  # steps for a new pair, where pairs are kept
    patience: int = Field(default=0, ge=0)  # end after so many validations without gain; 0: never
    loss: LossWeights
    synthesis: dict[str, Any] = {}  # changes to that of the data


class RuntimeConfig(Strict):
    """How the processor is used. May change when a run goes on."""

    device: str = "auto"  # auto, cpu, cuda or cuda:N
    # Autocast of the convolutions. auto: on a CPU that multiplies bfloat16 by itself.
    bfloat16: bool | Literal["auto"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"  # memory layout; auto: where bfloat16 is used
    gradient_checkpointing: bool = False  # recompute encoder and U-Nets in the backward pass
    compile: bool = False
    prefetch: bool | Literal["auto"] = "auto"  # make pairs ahead; auto: where a core is free


class KeepingConfig(Strict):
    """What is saved and measured. May change when a run goes on, except average_decay."""

    checkpoint_seconds: float = Field(default=120.0, ge=0)
    log_steps: int = Field(default=1, ge=1)
    tensorboard: bool = False
    validate_steps: int = Field(default=1000, ge=1)
    validation_pairs: int = Field(default=6, ge=0)
    average_decay: float = Field(default=0.999, ge=0, lt=1)  # of the weights' average; 0: none

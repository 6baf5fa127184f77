"""From a description to a network.

Every member of the family is one coarse network, Ξ or Ψ, at some scale, followed by Ψ
refinements at finer ones:

  CARL              attention at 4, refined at 2, 1      TwoStep{Down{TwoStep{Down{Ξ}, Ψ}}, Ψ}
  CARL, extra step  attention at 4, refined at 2, 1, 1
  CARL, HCP         attention at 4, refined at 2, 1 as one step of its own
                    (refine_nested = 2): TwoStep{Down{Down{Ξ}}, TwoStep{Down{Ψ}, Ψ}}
  uniGradICON       U-Net at 4,     refined at 2, 1, 1
  uniCARL           attention at 4 on features at 16, then each map blurred and refined:
                    five times at 2 by U-Nets at 4, once at 1
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from carl_cli.model.attention import CoordinateAttention, WindowAttention
from carl_cli.model.encoder import Encoder
from carl_cli.model.fields import DisplacementMap, ReflectedMap
from carl_cli.model.kernels.attention import MAX_SHARPNESS
from carl_cli.model.layers import pool
from carl_cli.model.operators import Blurred, Down, Registrar, Symmetric, SymmetricTwoStep, TwoStep
from carl_cli.model.unet import DisplacementUNet

MOST_CHANNELS = 2**14
MOST_LAYERS = 64
FARTHEST = 512
"""Voxels. All three are far above what any network has: a damaged config.json must not ask for
work without end."""

Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Reach = Annotated[int, Field(ge=0, le=FARTHEST)]
Scale = Annotated[int, Field(ge=1, le=FARTHEST)]
Scales = Annotated[tuple[Scale, ...], Field(max_length=MOST_LAYERS)]
Levels = Annotated[tuple[Channels, ...], Field(max_length=FARTHEST.bit_length())]


class EncoderConfig(BaseModel):
    """Conv_θ: features per voxel, residual blocks, voxels of zero padding. smoothing: of Ξ's
    field where the match is unsure, in its voxels; sharpness: factor of the logits. The
    paper has 0 and 1. dilations: of the convolutions of a block; halvings: of the image
    before the blocks (uniCARL). half_turns: features are means over the image and its turns by
    180° about each axis, which 3D alone has (the authors' rotation network)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    width: Channels = 128
    blocks: int = Field(default=3, ge=0, le=MOST_LAYERS)
    padding: Reach = 9
    smoothing: Reach = 0
    sharpness: float = Field(default=1.0, gt=0, le=MAX_SHARPNESS)
    dilations: Scales = (1, 2, 4)
    halvings: int = Field(default=0, ge=0, lt=FARTHEST.bit_length())
    half_turns: bool = False

    @model_validator(mode="after")
    def _whole_features(self) -> EncoderConfig:
        if self.padding % 2**self.halvings:
            raise ValueError(f"padding {self.padding} is no multiple of {2**self.halvings}")
        if self.halvings and self.width % 4 ** (self.halvings - 1):
            raise ValueError(f"width {self.width} is no multiple of {4 ** (self.halvings - 1)}")
        return self


class UNetConfig(BaseModel):
    """Ψ: channels after each halving and each doubling, finest level first."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    down: Levels = (16, 32, 64, 256, 512)
    up: Levels = (16, 32, 64, 128, 256)

    @model_validator(mode="after")
    def _same_depth(self) -> UNetConfig:
        if len(self.down) != len(self.up):
            raise ValueError(f"down has {len(self.down)} levels and up {len(self.up)}")
        return self


class WindowConfig(BaseModel):
    """Λ: Ξ's encoder on finer images, each voxel matched within `radius` voxels. smoothing and
    sharpness as of Ξ."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    radius: Scale = 3
    smoothing: Reach = 1
    sharpness: float = Field(default=1.0, gt=0, le=MAX_SHARPNESS)


class ModelConfig(BaseModel):
    """Any member of the family. Scales are powers of two, 1 = the network grid.

    coarse_symmetric: Ξ's two directions, and Λ's, are made each other's inverse; the paper: no.
    window_scales: where Λ follows Ξ, before any Ψ; the paper: nowhere.
    refine_symmetric: the two directions after each Ψ as well; the paper: no.
    refine_unets: the scale of each refinement's U-Net; empty: where it refines.
    refine_blurs: sigma by which the map before each refinement is blurred, in voxels at its
    scale; empty: not at all. refine_nested: so many of the first refinements are one step
    of their own, which sees the images at the scale of its last one; 0: each is a step.
    extrapolation: of maps, beyond the image's border, all of them or Ξ's alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    dimension: Literal[2, 3] = 3
    channels: Channels = 1
    coarse: Literal["attention", "unet"] = "attention"
    coarse_scale: Scale = 4
    coarse_symmetric: bool = False
    window_scales: Scales = ()
    window: WindowConfig = WindowConfig()
    refine_scales: Scales = (2, 1)
    refine_symmetric: bool = False
    refine_unets: Scales = ()
    refine_blurs: Annotated[tuple[Reach, ...], Field(max_length=MOST_LAYERS)] = ()
    refine_nested: int = Field(default=0, ge=0)
    extrapolation: Literal["border", "reflected", "reflected by Ξ"] = "border"
    encoder: EncoderConfig = EncoderConfig()
    unet: UNetConfig = UNetConfig()
    coordinates: Literal["corners", "centres"] = "corners"

    @model_validator(mode="after")
    def _scales_fall_to_one(self) -> ModelConfig:
        scales = (self.coarse_scale, *self.window_scales, *self.refine_scales, 1)
        if any(s & (s - 1) for s in scales):
            raise ValueError(f"scales must be powers of two, found {scales[:-1]}")
        if list(scales) != sorted(scales, reverse=True):
            raise ValueError(f"scales must not grow, found {scales[:-1]}")
        return self

    @model_validator(mode="after")
    def _windows_can_look(self) -> ModelConfig:
        if not self.window_scales:
            return self
        if self.coarse != "attention" or self.encoder.halvings:
            raise ValueError("window_scales need coarse = attention whose encoder halves nothing")
        if self.window.radius > self.encoder.padding:
            raise ValueError(
                f"window radius {self.window.radius} is above the padding {self.encoder.padding}"
            )
        return self

    @model_validator(mode="after")
    def _each_refinement_described(self) -> ModelConfig:
        count = len(self.refine_scales)
        for name in ("refine_unets", "refine_blurs"):
            if len(getattr(self, name)) not in (0, count):
                raise ValueError(f"{name}: {count} expected, as many as refine_scales")
        for unet, scale in zip(self.unet_scales, self.refine_scales, strict=True):
            if unet < scale or unet & (unet - 1):
                raise ValueError(f"refine_unets: {unet} can't refine at scale {scale}")
        return self

    @model_validator(mode="after")
    def _nested_is_plain(self) -> ModelConfig:
        if self.refine_nested == 1 or self.refine_nested > len(self.refine_scales):
            raise ValueError(f"refine_nested {self.refine_nested}: none, or two of them at least")
        if self.refine_nested and (self.refine_unets or self.refine_blurs or self.window_scales):
            raise ValueError("refine_nested: no refine_unets, refine_blurs, window_scales beside")
        if self.encoder.half_turns and self.dimension != 3:
            raise ValueError("half_turns need 3 dimensions")
        return self

    @property
    def unet_scales(self) -> tuple[int, ...]:
        return self.refine_unets or self.refine_scales

    @property
    def align_corners(self) -> bool:
        return self.coordinates == "corners"

    @property
    def stride(self) -> int:
        """Largest step of the whole network in voxels: exact under shifts by this much."""
        depth = 2 ** len(self.unet.down)
        coarse = 2**self.encoder.halvings if self.coarse == "attention" else depth
        return max([self.coarse_scale * coarse, *(s * depth for s in self.unet_scales)])


def build_network(config: ModelConfig) -> Registrar:
    """The untrained network of a description, in eval mode."""
    network, scale = _coarse(config), config.coarse_scale
    if config.coarse_symmetric:
        network = Symmetric(network, config.align_corners)
    network, scale = _with_windows(network, config)
    blurs = config.refine_blurs or (0,) * len(config.refine_scales)
    step = _step(config.refine_symmetric)
    if nested := config.refine_scales[: config.refine_nested]:
        network, scale = _raise_to(network, scale, nested[-1]), nested[-1]
        network = step(network, _refined(config, nested), config.align_corners)
    steps = [*zip(config.refine_scales, config.unet_scales, blurs, strict=True)]
    for finer, at, sigma in steps[config.refine_nested :]:
        network = _raise_to(network, scale, finer)
        if sigma:
            network = Blurred(network, sigma, config.align_corners, _map_kind(config))
        network = step(network, _raise_to(_unet(config), at, finer), config.align_corners)
        scale = finer
    return _raise_to(network, scale, 1).eval()


def _with_windows(network: Registrar, config: ModelConfig) -> tuple[Registrar, int]:
    """The network at the last window's scale, and that scale."""
    scale, attention, w = config.coarse_scale, attention_of(network), config.window
    step = _step(config.coarse_symmetric)
    for finer in config.window_scales:
        assert attention is not None
        window = WindowAttention(attention, w.radius, w.sharpness, w.smoothing)
        network = step(_raise_to(network, scale, finer), window, config.align_corners)
        scale = finer
    return network, scale


def _refined(config: ModelConfig, scales: tuple[int, ...]) -> Registrar:
    """Ψ at the first of these scales, refined by a Ψ at each other one."""
    network, scale = _unet(config), scales[0]
    for finer in scales[1:]:
        coarser = _raise_to(network, scale, finer)
        network = _step(config.refine_symmetric)(coarser, _unet(config), config.align_corners)
        scale = finer
    return network


def _step(symmetric: bool) -> type[TwoStep]:
    return SymmetricTwoStep if symmetric else TwoStep


def _raise_to(network: Registrar, scale: int, finer: int) -> Registrar:
    while scale > finer:
        network, scale = Down(network), scale // 2
    return network


def _coarse(config: ModelConfig) -> Registrar:
    if config.coarse == "unet":
        return _unet(config)
    e = config.encoder
    sizes = (config.dimension, config.channels, e.width, e.blocks)
    encoder = Encoder(*sizes, e.dilations, e.halvings, e.half_turns)
    return CoordinateAttention(
        encoder,
        e.padding,
        config.align_corners,
        e.smoothing,
        e.sharpness,
        e.halvings,
        DisplacementMap if config.extrapolation == "border" else ReflectedMap,
    )


def _unet(config: ModelConfig) -> Registrar:
    u = config.unet
    return DisplacementUNet(
        config.dimension,
        config.channels,
        u.down,
        u.up,
        config.align_corners,
        _map_kind(config),
    )


def _map_kind(config: ModelConfig) -> type[DisplacementMap]:
    """Of Ψ, and of blurred maps."""
    return ReflectedMap if config.extrapolation == "reflected" else DisplacementMap


def coarse_network(network: Registrar) -> Registrar:
    """The innermost network: Ξ (made symmetric, if it is), or the coarsest Ψ."""
    while isinstance(network, Down | Blurred | TwoStep):
        network = network.first if isinstance(network, TwoStep) else network.inner
    return network


def attention_of(network: Registrar) -> CoordinateAttention | None:
    """Ξ itself, also inside Symmetric; None for a network whose coarse part is a Ψ."""
    coarse = coarse_network(network)
    coarse = coarse.inner if isinstance(coarse, Symmetric) else coarse
    return coarse if isinstance(coarse, CoordinateAttention) else None


def coarse_images(network: Registrar, *images: Tensor) -> tuple[Tensor, ...]:
    """Images (B, C, *shape) as the innermost network sees them."""
    while isinstance(network, Down | Blurred | TwoStep):
        if isinstance(network, Down):
            images = tuple(pool(image) for image in images)
        network = network.first if isinstance(network, TwoStep) else network.inner
    return images


def with_coarse(network: Registrar, coarse: Registrar) -> Registrar:
    """Put another network in the innermost place (in place; returns the network)."""
    if isinstance(network, Down | Blurred):
        network.inner = with_coarse(network.inner, coarse)
    elif isinstance(network, TwoStep):
        network.first = with_coarse(network.first, coarse)
    else:
        return coarse
    return network

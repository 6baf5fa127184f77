"""From a description to a network: a tour of CARL, and the members of its family.

The paper's Eq. 16, and what each word of it is called here (Ψ₁ at half the grid, Ψ₂ on all of it):

    CARL := TwoStep{ Down{ TwoStep{ Down{ Ξ }, Ψ₁ } }, Ψ₂ }

    Ξ          `CoordinateAttention` (`attention`), Fig. 2: both images are padded with zeros
               and given to one `Encoder` (`encoder`); the fixed image's features, cropped back,
               are the queries, the moving image's the keys, and the positions of its voxels the
               values (`kernels`). It answers for every shift of either image: [W, U]-equivariant
    Ψ          `DisplacementUNet` (`unet`): looks at the fixed image and at the moving image as
               warped so far. Shifts of both alike are enough for it: [U, U]-equivariant
    TwoStep    warps the moving image by the first map, and composes it with the second (Eq. 14)
    Down       runs a network on images of half the size (Eq. 19)
    a map      from points of the fixed image to points of the moving one, in coordinates from 0
               to 1, whatever the resolution (`fields`; Appendix B)

`build_network` puts these together from the inside out: one coarse network, Ξ or Ψ, at some
scale, raised step by step to finer ones, where a refinement follows it:

  CARL              attention at 4, refined at 2, 1      Eq. 16
  CARL, extra step  attention at 4, refined at 2, 1, 1
  CARL, HCP         attention at 4, refined at 2, 1 as one step of its own
                    (refine_nested = 2): TwoStep{Down{Down{Ξ}}, TwoStep{Down{Ψ}, Ψ}}
  uniGradICON       U-Net at 4,     refined at 2, 1, 1
  uniCARL           attention at 4 on features at 16, then each map blurred and refined:
                    five times at 2 by U-Nets at 4, once at 1
  carl-base         attention at 4, window attention at 2, refined at 2, 1; after each step both
                    directions are made each other's inverse (`operators`): not in the paper
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from carl_cli.model.attention import CoordinateAttention, WindowAttention
from carl_cli.model.coarse import attention_of
from carl_cli.model.encoder import Encoder, Stem
from carl_cli.model.fields import DisplacementMap, ReflectedMap
from carl_cli.model.kernels.attention import MAX_SHARPNESS
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
    """Ξ: Conv_θ, and how its matches are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    width: Channels = 128  # features per voxel
    blocks: int = Field(default=3, ge=0, le=MOST_LAYERS)  # residual ones
    padding: Reach = 9  # voxels of zeros around the images that Ξ sees
    smoothing: Reach = 0  # of the field where the match is unsure, in feature voxels; paper: 0
    sharpness: float = Field(default=1.0, gt=0, le=MAX_SHARPNESS)  # of the logits; paper: 1
    dilations: Scales = (1, 2, 4)  # of the convolutions of a block
    halvings: int = Field(default=0, ge=0, lt=FARTHEST.bit_length())  # before the blocks (uniCARL)
    query_stride: Scale = 1  # of the fixed voxels that are matched; paper: 1
    # Features are means over the image and its turns by 180° about each axis, which 3D alone has
    # (the authors' rotation network).
    half_turns: bool = False
    stem: Stem = "intensity"  # mind: MIND-SSC channels, which halve the image once

    @model_validator(mode="after")
    def _mind_halves_once(self) -> EncoderConfig:
        if self.stem == "mind" and self.halvings != 1:
            raise ValueError("stem mind halves the image once: halvings = 1")
        return self

    @model_validator(mode="after")
    def _whole_features(self) -> EncoderConfig:
        if self.padding % 2**self.halvings:
            raise ValueError(f"padding {self.padding} is no multiple of {2**self.halvings}")
        if self.halvings and self.width % 4 ** (self.halvings - 1):
            raise ValueError(f"width {self.width} is no multiple of {4 ** (self.halvings - 1)}")
        return self


class UNetConfig(BaseModel):
    """Ψ."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    down: Levels = (16, 32, 64, 256, 512)  # channels after each halving, finest level first
    up: Levels = (16, 32, 64, 128, 256)  # channels after each doubling, finest level first

    @model_validator(mode="after")
    def _same_depth(self) -> UNetConfig:
        if len(self.down) != len(self.up):
            raise ValueError(f"down has {len(self.down)} levels and up {len(self.up)}")
        return self


class WindowConfig(BaseModel):
    """Window attention: Ξ's encoder on finer images; smoothing and sharpness as of Ξ."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    radius: Scale = 3  # voxels within which each voxel is matched
    smoothing: Reach = 1
    sharpness: float = Field(default=1.0, gt=0, le=MAX_SHARPNESS)


class ModelConfig(BaseModel):
    """Any member of the family; the paper's, unless said otherwise.

    A scale is a power of two: network voxels along each axis of one voxel there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    dimension: Literal[2, 3] = 3
    channels: Channels = 1  # of an image
    coarse: Literal["attention", "unet"] = "attention"  # Ξ or Ψ
    coarse_scale: Scale = 4
    coarse_symmetric: bool = False  # directions of Ξ and windows made each other's inverse
    window_scales: Scales = ()  # where window attention follows Ξ, before any Ψ
    window: WindowConfig = WindowConfig()
    refine_scales: Scales = (2, 1)  # of each Ψ, coarse to fine
    refine_symmetric: bool = False  # the directions after each Ψ as well
    refine_unets: Scales = ()  # scale of each refinement's U-Net; empty: where it refines
    # Sigma by which the map before each refinement is blurred, in voxels at its scale; empty: none.
    refine_blurs: Annotated[tuple[Reach, ...], Field(max_length=MOST_LAYERS)] = ()
    # So many of the first refinements are one step of their own, which sees the images at the
    # scale of its last one; 0: each is a step.
    refine_nested: int = Field(default=0, ge=0)
    # Of maps, beyond the image's border: of all of them, or of Ξ's alone.
    extrapolation: Literal["border", "reflected", "reflected by Ξ"] = "border"
    encoder: EncoderConfig = EncoderConfig()
    unet: UNetConfig = UNetConfig()
    coordinates: Literal["corners", "centres"] = "corners"  # see `fields`

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
        if self.coarse != "attention" or (self.encoder.halvings and self.encoder.stem != "mind"):
            raise ValueError("window_scales need coarse = attention without a HalvingStem")
        margin = self.encoder.padding // 2**self.encoder.halvings
        if self.window.radius > margin:
            raise ValueError(f"window radius {self.window.radius} is above the margin {margin}")
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
    encoder = Encoder(*sizes, e.dilations, e.halvings, e.stem, e.half_turns)
    return CoordinateAttention(
        encoder,
        e.padding,
        config.align_corners,
        smoothing=e.smoothing,
        sharpness=e.sharpness,
        halvings=e.halvings,
        map_kind=DisplacementMap if config.extrapolation == "border" else ReflectedMap,
        query_stride=e.query_stride,
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

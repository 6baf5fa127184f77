"""How much memory a case will take, from the headers of its images and the network's description.

The stages of a case follow each other, so the largest one counts. The factors are bytes per
voxel, channel or feature; they were fitted to peaks that were measured on CPUs (the tests hold
some of them), and stand for the temporary arrays that the libraries make.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carl_cli.geometry import Grid
from carl_cli.io.atomic import full_suffix
from carl_cli.io.transforms.dense_files import WRITABLE as FIELDS
from carl_cli.memory import MIB
from carl_cli.model.carl import ModelConfig
from carl_cli.preprocessing.rule import PreprocessRule, grid_shape

if TYPE_CHECKING:
    from carl_cli.case import CaseInputs, CaseOutputs, RunSettings
    from carl_cli.registration import RegistrationOptions
    from carl_cli.weights import Weights

FLOAT = 4
STORED = 4  # bytes of a voxel as it is kept after reading; int16 needs less, float64 more
PREPARING = 22
MAPS = 36
ENCODING = 5  # feature maps that exist at once
ENCODING_WINDOW = 10  # the same with window attention, on its finer grid
FITTING = 350  # instance optimisation: losses, maps and their gradients on the network's grid
FITTING_FIELD = 200  # the same without a network
FITTING_UNET = 1.5  # what U-Nets take for their gradients, in what a forward pass takes
FITTING_ENCODER = 20  # feature maps of the encoder: what its blocks start from, and one block
FITTING_WINDOW = 40  # the same of window attention, which sees warped images too
ON_GPU = 0.75  # tensors alone; on a CPU libraries take scratch memory beside them
PARAMETERS = 5  # private copy, gradients, two moments of Adam, best state
SCORING = 220
RETAINED = 0.35  # of the network's memory is not given back to the system
KEPT = 130  # bytes per network voxel that a result holds, with what scoring leaves behind
LIBRARIES_MIB = 130.0  # ITK's transforms: beside what the network used, which is kept
PICTURES_MIB = 60.0
SLAB_POINTS, SLAB = 1 << 21, 75
WRITING = 2.5  # copies of an output while it is compressed

PER_VOXEL_BYTES = {"jacobian": 4, "confidence": 4, "warped": STORED, "inverse_warped": STORED}
"""Of outputs on an image's grid; the moving one's for those that begin with inverse."""
PER_POINT_BYTES = 12  # of a dense field


@dataclass(frozen=True)
class Plan:
    """What is to be read, done and written; as in `run_case`."""

    inputs: CaseInputs
    outputs: CaseOutputs
    options: RegistrationOptions
    settings: RunSettings


@dataclass(frozen=True)
class Need:
    """What a case takes beside what the process holds before it, in MiB."""

    main_mib: float
    gpu_mib: float
    network_shape: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Voxels of the two images and of the network's grid."""

    fixed: int
    moving: int
    network_shape: tuple[int, ...]

    @classmethod
    def of(cls, fixed: Grid, moving: Grid, rule: PreprocessRule) -> Sizes:
        """The `physical` rule's grid holds a part of the images: at most all of both."""
        shape = rule.shape_zyx or _physical_shape(fixed, moving, rule)
        return cls(prod(fixed.size_xyz), prod(moving.size_xyz), shape)

    @property
    def images(self) -> int:
        return STORED * (self.fixed + self.moving)


def _physical_shape(fixed: Grid, moving: Grid, rule: PreprocessRule) -> tuple[int, ...]:
    extents = [np.ptp(grid.corners_mm(), axis=0) for grid in (fixed, moving)]
    finest = min(*fixed.spacing_mm, *moving.spacing_mm)
    size, _ = grid_shape(
        tuple(np.max(extents, axis=0)),
        rule.multiple_of,
        rule.max_voxels,
        max(finest, rule.min_spacing_mm),
    )
    return size[::-1]


def need_of(plan: Plan, fixed: Grid, moving: Grid, weights: Weights) -> Need:
    """Of registering two images of these grids."""
    sizes = Sizes.of(fixed, moving, weights.config.preprocess)
    voxels, network = prod(sizes.network_shape), _network_bytes(plan, sizes, weights)
    on_gpu = plan.settings.device.startswith("cuda")
    here = 0.0 if on_gpu else network
    left = min(RETAINED * here, KEPT * voxels)
    stages = (
        PREPARING * max(sizes.fixed, sizes.moving),
        here,
        SCORING * voxels + left,
        _writing(plan, sizes),
    )
    main = (sizes.images + _beside(plan, sizes) + max(stages)) / MIB + LIBRARIES_MIB
    return Need(main, ON_GPU * network / MIB if on_gpu else 0.0, sizes.network_shape)


def _network_bytes(plan: Plan, sizes: Sizes, weights: Weights) -> float:
    """Of the forward pass or of a step of instance optimisation, where the network is."""
    model, shape = weights.config.model, sizes.network_shape
    forward, instance = _network(model, shape), plan.options.instance
    if instance is None or plan.options.affine_only:
        return forward
    parameters = sum(p.numel() for p in weights.network.parameters())
    return forward + _fitting(model, shape, instance.scope) + PARAMETERS * FLOAT * parameters


def _beside(plan: Plan, sizes: Sizes) -> int:
    """Bytes of masks and segmentations, taken to be as large as their images."""
    given = plan.inputs.paths().keys()
    return STORED * sum(
        size
        for side, size in (("fixed", sizes.fixed), ("moving", sizes.moving))
        for role in ("mask", "seg")
        if f"{side}_{role}" in given
    )


def _network(model: ModelConfig, shape: tuple[int, ...]) -> float:
    """Bytes of a forward pass: features are gone where a U-Net begins."""
    unets = max((_unet(model, shape, scale) for scale in _unet_scales(model)), default=0.0)
    encoding = ENCODING_WINDOW if model.window_scales else ENCODING
    return max(encoding * _features(model, shape), unets) + MAPS * prod(shape)


def _fitting(model: ModelConfig, shape: tuple[int, ...], scope: str) -> float:
    """Bytes that a step of instance optimisation takes beside those of a forward pass."""
    if scope == "field":
        return FITTING_FIELD * prod(shape)
    maps = FITTING_WINDOW if model.window_scales else FITTING_ENCODER
    encoder = maps * _features(model, shape) if scope == "all" else 0.0
    unets = sum(_unet(model, shape, scale) for scale in _unet_scales(model))
    return encoder + FITTING_UNET * unets + FITTING * prod(shape)


def _features(model: ModelConfig, shape: tuple[int, ...]) -> float:
    """Bytes of the encoder's largest result for one image, padding included."""
    if model.coarse != "attention":
        return 0.0
    encoder, finer = model.encoder, min((model.coarse_scale, *model.window_scales))
    cells = prod((n / finer + 2 * encoder.padding) / 2**encoder.halvings for n in shape)
    return FLOAT * encoder.width * cells


def _unet(model: ModelConfig, shape: tuple[int, ...], scale: int) -> float:
    """Bytes of a U-Net's finest level: its sums, its norm and what is joined."""
    channels = 5 * model.unet.up[0] + 2 * model.channels
    return FLOAT * channels * prod(shape) / scale**model.dimension


def _unet_scales(model: ModelConfig) -> tuple[int, ...]:
    coarse = (model.coarse_scale,) if model.coarse == "unet" else ()
    return (*coarse, *model.unet_scales)


def _writing(plan: Plan, sizes: Sizes) -> float:
    wanted, native = plan.outputs.paths(), plan.settings.field_spacing == "native"
    voxels = {role: sizes.moving if role.startswith("inverse") else sizes.fixed for role in wanted}
    per_voxel = {role: _bytes_per_voxel(role, path, native) for role, path in wanted.items()}
    written = sum(voxels[role] * per_voxel[role] for role in wanted)
    pictures = PICTURES_MIB * MIB if {"figure", "report"} & wanted.keys() else 0.0
    points = min(max(sizes.fixed, sizes.moving), SLAB_POINTS)
    kept = KEPT * prod(sizes.network_shape)
    return kept + SLAB * points + WRITING * written + pictures


def _bytes_per_voxel(role: str, path: Path, native: bool) -> int:
    """Of the image's voxels; native: dense fields are as fine as the image."""
    if role in ("forward", "inverse"):
        return PER_POINT_BYTES if native and full_suffix(path).lower() in FIELDS else 0
    return PER_VOXEL_BYTES.get(role, 0)

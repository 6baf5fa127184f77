"""How much memory a case will take, from the headers of its images and the network's description.

The stages of a case follow each other, so the largest one counts. The factors are bytes per
voxel, channel or feature; they were fitted to peaks that were measured on CPUs (the tests hold
some of them), and stand for the temporary arrays that the libraries make.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from carl_cli.errors import InputError, OutOfMemoryError
from carl_cli.geometry import Grid
from carl_cli.io.atomic import full_suffix
from carl_cli.io.images.files import read_grid
from carl_cli.io.transforms.fields import WRITABLE as FIELDS
from carl_cli.model.network import ModelConfig
from carl_cli.system import MIB, Allowance, gpu_memory, main_memory, resident_mib
from carl_cli.workflows.request import SPLIT_FILES, CaseInputs, Plan, RunSettings
from carl_cli.workflows.sizes import STORED_BYTES_PER_VOXEL, Sizes

if TYPE_CHECKING:
    from carl_cli.weights.folder import Weights

Grids = tuple[Grid, Grid]

BYTES_PER_FLOAT = 4
PREPARING_BYTES_PER_VOXEL = 22  # of the larger image
MAPS_BYTES_PER_VOXEL = 36  # of the network's grid, as all below that are not said to be others
ENCODING_FEATURE_MAPS = 5  # feature maps that exist at once
WINDOW_FEATURE_MAPS = 10  # the same with window attention, on its finer grid
FITTING_BYTES_PER_VOXEL = 350  # a step of instance optimisation: losses, maps and gradients
FITTING_FIELD_BYTES_PER_VOXEL = 200  # the same without a network
FITTING_UNETS = 1.5  # what U-Nets take for their gradients, in what a forward pass takes
FITTING_FEATURE_MAPS = 20  # feature maps of the encoder: what its blocks start from, and one block
FITTING_WINDOW_FEATURE_MAPS = 40  # the same of window attention, which sees warped images too
TISSUES_BYTES_PER_VOXEL = 340  # in float32 as in bfloat16
# Of alignment, where both directions are computed at once; of a fitted field all counts twice.
SECOND_HALF_BYTES_PER_VOXEL = 140
GPU_SHARE = 0.75  # tensors alone; on a CPU libraries take scratch memory beside them
COPIES_OF_PARAMETERS = 5  # private copy, gradients, two moments of Adam, best state
SCORING_BYTES_PER_VOXEL = 72
COMPARING_BYTES_PER_VOXEL, COMPARING_MIB = 110, 200.0  # of the fixed image; at most
RETAINED_SHARE = 0.35  # of the network's memory is not given back to the system
KEPT_BYTES_PER_VOXEL = 130  # of a result, with what scoring leaves behind
LIBRARIES_MIB = 130.0  # ITK's transforms: beside what the network used, which is kept
PICTURES_MIB = 60.0
SLAB_POINTS, SLAB_BYTES_PER_POINT = 1 << 21, 75
COPIES_WHILE_WRITING = 2.5  # copies of an output while it is compressed

# Of outputs on an image's grid; the moving one's for those that begin with inverse.
GRID_OUTPUTS = "jacobian", "match_spread", "warped", "inverse_warped"
OUTPUT_BYTES_PER_VOXEL = dict.fromkeys(GRID_OUTPUTS, STORED_BYTES_PER_VOXEL)
FIELD_BYTES_PER_POINT = 12  # of a dense field


@dataclass(frozen=True)
class Need:
    """What a case takes beside what the process holds before it, in MiB."""

    main_mib: float
    gpu_mib: float
    network_shape: tuple[int, ...]


def need_of(plan: Plan, fixed: Grid, moving: Grid, weights: Weights) -> Need:
    """Of registering two images of these grids."""
    sizes = Sizes.of(fixed, moving, weights.config.preprocess)
    voxels, network = prod(sizes.network_shape), _network_bytes(plan, sizes, weights)
    compared = min(COMPARING_BYTES_PER_VOXEL * sizes.fixed, COMPARING_MIB * MIB)
    on_gpu = plan.settings.device.startswith("cuda")
    here = 0.0 if on_gpu else network
    left = min(RETAINED_SHARE * here, KEPT_BYTES_PER_VOXEL * voxels)
    stages = (
        PREPARING_BYTES_PER_VOXEL * max(sizes.fixed, sizes.moving),
        here,
        SCORING_BYTES_PER_VOXEL * voxels + compared + left,
        _writing(plan, sizes),
    )
    main = (sizes.images + _beside(plan, sizes) + max(stages)) / MIB + LIBRARIES_MIB
    return Need(main, GPU_SHARE * network / MIB if on_gpu else 0.0, sizes.network_shape)


def _network_bytes(plan: Plan, sizes: Sizes, weights: Weights) -> float:
    """Of the forward pass or of a step of instance optimisation, where the network is."""
    model, shape = weights.config.model, sizes.network_shape
    forward, instance = _network(model, shape), plan.options.instance
    forward = max(forward, (weights.tissues is not None) * TISSUES_BYTES_PER_VOXEL * prod(shape))
    at_once = plan.settings.threads > 1 and plan.settings.device == "cpu"
    if instance is None or plan.options.linear is not None:
        return forward + at_once * SECOND_HALF_BYTES_PER_VOXEL * prod(shape)
    parameters = sum(p.numel() for p in weights.network.parameters())
    halves = 1 + (at_once and instance.scope == "field")
    return (
        forward
        + halves * _fitting(model, shape, instance.scope)
        + COPIES_OF_PARAMETERS * BYTES_PER_FLOAT * parameters
    )


def _beside(plan: Plan, sizes: Sizes) -> int:
    """Bytes of masks and segmentations, taken to be as large as their images."""
    given = plan.inputs.paths().keys()
    return STORED_BYTES_PER_VOXEL * sum(
        size
        for side, size in (("fixed", sizes.fixed), ("moving", sizes.moving))
        for role in ("mask", "seg")
        if f"{side}_{role}" in given
    )


def _network(model: ModelConfig, shape: tuple[int, ...]) -> float:
    """Bytes of a forward pass: features are gone where a U-Net begins."""
    unets = max((_unet(model, shape, scale) for scale in _unet_scales(model)), default=0.0)
    encoding = WINDOW_FEATURE_MAPS if model.window_scales else ENCODING_FEATURE_MAPS
    return max(encoding * _features(model, shape), unets) + MAPS_BYTES_PER_VOXEL * prod(shape)


def _fitting(model: ModelConfig, shape: tuple[int, ...], scope: str) -> float:
    """Bytes that a step of instance optimisation takes beside those of a forward pass."""
    if scope == "field":
        return FITTING_FIELD_BYTES_PER_VOXEL * prod(shape)
    maps = FITTING_WINDOW_FEATURE_MAPS if model.window_scales else FITTING_FEATURE_MAPS
    encoder = maps * _features(model, shape) if scope == "all" else 0.0
    unets = sum(_unet(model, shape, scale) for scale in _unet_scales(model))
    return encoder + FITTING_UNETS * unets + FITTING_BYTES_PER_VOXEL * prod(shape)


def _features(model: ModelConfig, shape: tuple[int, ...]) -> float:
    """Bytes of the encoder's largest result for one image, padding included."""
    if model.coarse != "attention":
        return 0.0
    encoder, finer = model.encoder, min((model.coarse_scale, *model.window_scales))
    cells = prod((n / finer + 2 * encoder.padding) / 2**encoder.halvings for n in shape)
    return BYTES_PER_FLOAT * encoder.width * cells


def _unet(model: ModelConfig, shape: tuple[int, ...], scale: int) -> float:
    """Bytes of a U-Net's finest level: its sums, its norm and what is joined."""
    channels = 5 * model.unet.up[0] + 2 * model.channels
    return BYTES_PER_FLOAT * channels * prod(shape) / scale**model.dimension


def _unet_scales(model: ModelConfig) -> tuple[int, ...]:
    coarse = (model.coarse_scale,) if model.coarse == "unet" else ()
    return (*coarse, *model.unet_scales)


def _writing(plan: Plan, sizes: Sizes) -> float:
    wanted, native = plan.outputs.paths(), plan.settings.field_spacing == "native"
    voxels = {role: sizes.moving if role.startswith("inverse") else sizes.fixed for role in wanted}
    per_voxel = {role: _bytes_per_voxel(role, path, native) for role, path in wanted.items()}
    mass = 2 * BYTES_PER_FLOAT * plan.settings.intensity_conservation  # the Jacobian, a product
    per_voxel |= {role: per + mass for role, per in per_voxel.items() if "warped" in role}
    written = sum(voxels[role] * per_voxel[role] for role in wanted)
    pictures = PICTURES_MIB * MIB if {"figure", "report"} & wanted.keys() else 0.0
    points = min(max(sizes.fixed, sizes.moving), SLAB_POINTS)
    kept = KEPT_BYTES_PER_VOXEL * prod(sizes.network_shape)
    return kept + SLAB_BYTES_PER_POINT * points + COPIES_WHILE_WRITING * written + pictures


def _bytes_per_voxel(role: str, path: Path, native: bool) -> int:
    """Of the image's voxels; native: dense fields are as fine as the image."""
    if role in ("forward", "inverse", *SPLIT_FILES):
        return FIELD_BYTES_PER_POINT if native and full_suffix(path).lower() in FIELDS else 0
    return OUTPUT_BYTES_PER_VOXEL.get(role, 0)


def check_room(plan: Plan, weights: Weights) -> None:
    """Raise OutOfMemoryError, with figures and with what would fit. Reads headers only.

    Images that can't be read or don't belong together pass: what reads them says why.
    """
    grids = _grids(plan.inputs)
    if grids is None:
        return
    need = need_of(plan, *grids, weights)
    for needed, allowed in _pairs(need, plan.settings):
        if needed > allowed.mib:
            names = f"{plan.inputs.moving} onto {plan.inputs.fixed}"
            raise OutOfMemoryError(
                f"{names} takes about {_gib(needed)}, but {allowed.source} allows "
                f"{_gib(allowed.mib)} ({_told(plan, grids, need)})",
                _hint(plan, grids, weights, needed),
            )


def room_for_both(one: Plan, other: Plan, weights: Weights) -> bool:
    """Whether files of one case may be read or written while the other one is computed."""
    grids = _grids(one.inputs), _grids(other.inputs)
    if grids[0] is None or grids[1] is None:
        return True
    needs = need_of(one, *grids[0], weights), need_of(other, *grids[1], weights)
    together = replace(needs[0], main_mib=needs[0].main_mib + needs[1].main_mib)
    return _fits(together, one.settings)


def _grids(inputs: CaseInputs) -> Grids | None:
    paths = inputs.fixed, inputs.moving
    try:
        fixed, moving = (read_grid(path, series_uid=inputs.series_uid) for path in paths)
    except (InputError, OSError):
        return None
    return (fixed, moving) if fixed.dimension == moving.dimension else None


def _pairs(need: Need, settings: RunSettings) -> Iterator[tuple[float, Allowance]]:
    """What is needed and what is allowed, of each kind of memory."""
    allowed = main_memory()
    if allowed is not None:
        if settings.workers > 1:
            shared = f"a share of {settings.workers} workers in {allowed.source}"
            allowed = Allowance(allowed.mib / settings.workers, shared)
        yield need.main_mib + _before_the_first_case(), allowed
    if need.gpu_mib:
        yield need.gpu_mib, gpu_memory(settings.device)


@lru_cache(maxsize=1)
def _before_the_first_case() -> float:
    """Libraries and weights. Later the process also holds what earlier cases have left."""
    return resident_mib()


def _fits(need: Need, settings: RunSettings) -> bool:
    return all(needed <= allowed.mib for needed, allowed in _pairs(need, settings))


def _hint(plan: Plan, grids: Grids, weights: Weights, needed_mib: float) -> str:
    """The first change that would help, the mildest first."""
    for words, changed in _changes(plan):
        if _fits(need_of(changed, *grids, weights), changed.settings):
            return f"what would fit: {words}"
    return f"ask for more memory (about {_gib(needed_mib)}), or use smaller images"


def _changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    outputs, settings = plan.outputs, plan.settings
    alone = replace(plan, settings=replace(settings, workers=1))
    yield "--workers 1", alone
    yield "--device cpu", replace(plan, settings=replace(settings, device="cpu"))
    yield "--no-io", replace(plan, options=replace(plan.options, instance=None))
    yield (
        "--no-io with --workers 1",
        replace(alone, options=replace(plan.options, instance=None)),
    )
    if outputs.forward is not None:
        others = [role for role in outputs.paths() if role not in ("forward", "json")]
        bare = replace(outputs, **dict.fromkeys(others, None))
        yield "the transform alone (carl warp makes the images)", replace(plan, outputs=bare)


def _told(plan: Plan, grids: Grids, need: Need) -> str:
    images = " and ".join(_product(grid.size_xyz) for grid in grids)
    network = _product(need.network_shape[::-1])
    fitted = ", instance optimisation" if plan.options.instance is not None else ""
    return f"images of {images} voxels, network grid of {network}{fitted}"


def _product(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _gib(mib: float) -> str:
    return f"{mib / 1024:.2f} GiB"

"""The straight line from two images to a transform.

prepare the pair → network → alignment (→ instance optimisation) → physical transform
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import InstanceOf

from carl_cli.errors import InputError, UsageError
from carl_cli.io.images.files import Image
from carl_cli.model.coarse import attention_of, weighing
from carl_cli.model.fields import Map, identity, voxels_per_unit
from carl_cli.preprocessing.options import ImageOptions, option_group
from carl_cli.preprocessing.pair import PreparedPair, initialise, prepare_pair
from carl_cli.progress import Progress, Stopwatch, silent
from carl_cli.registration.affine import fit_linear, refine_linear
from carl_cli.registration.contexts import Pair
from carl_cli.registration.freedom import check_restrict, freedom_of
from carl_cli.registration.guides import guides_of
from carl_cli.registration.instance import InstanceOptions
from carl_cli.registration.known import Known
from carl_cli.registration.maps import check_regularity, find_maps, network_maps
from carl_cli.registration.options import ChannelOptions, GuideOptions, StartOptions
from carl_cli.registration.rotation import search_rotation, searched_rule
from carl_cli.registration.tensors import check_channels, pair_of
from carl_cli.transforms import CompositeTransform, DisplacementField, Transform, from_network
from carl_cli.transforms import identity as identity_transform
from carl_cli.transforms.folds import without_folds
from carl_cli.transforms.linear import Linear
from carl_cli.weights.folder import Weights


@option_group
class RegistrationOptions(ChannelOptions, GuideOptions, StartOptions, ImageOptions):
    """Raises UsageError for a value that is misspelt or out of its bounds."""

    fixed_mask: InstanceOf[Image] | None = None  # which voxels may be used; on a grid of its own
    moving_mask: InstanceOf[Image] | None = None
    initial: Transform | None = None  # fixed → moving, LPS mm; it is refined
    # Further contrasts in the two images' spaces, in the same order.
    fixed_channels: tuple[InstanceOf[Image], ...] = ()
    moving_channels: tuple[InstanceOf[Image], ...] = ()
    known: InstanceOf[Known] = Known()  # labels and landmarks that guide where they have a weight
    instance: InstanceOptions | None = None  # None: the forward pass alone
    match_spread: bool = False  # whether Registration.spread_mm is wanted
    rough: bool = False  # a map to begin with, in a fraction of the steps of alignment


DEFAULT_OPTIONS = RegistrationOptions()


@dataclass(frozen=True, eq=False)
class Registration:
    """Both directions as the network has them, LPS mm."""

    forward: CompositeTransform  # fixed points → moving points
    # moving points → fixed points: the network's own other direction, close to the inverse of
    # forward but not equal to it.
    backward: CompositeTransform
    prepared: PreparedPair
    losses: list[float] = field(default_factory=list)  # of instance optimisation, step by step
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    # Standard deviation of Ξ's matches, (z, y, x) over prepared.fixed.grid's extent at Ξ's shape;
    # None where it was not wanted or no Ξ was asked.
    spread_mm: NDArray[np.float32] | None = None
    evidence: float | None = None  # see alignment.evidence; None: these weights don't align
    io_metric: str = ""  # of instance optimisation, as it was chosen; empty: none was done


def register(
    fixed: Image,
    moving: Image,
    weights: Weights,
    options: RegistrationOptions = DEFAULT_OPTIONS,
    progress: Progress = silent,
) -> Registration:
    """Find the transform that carries points of `fixed` to points of `moving`, LPS mm.

    The images are resampled as the weights' rule says, so their grids may differ in all. Raises
    InputError for images that can't be used, UsageError for options that exclude each other.
    """
    watch = Stopwatch(progress)
    initial = _initial(fixed, moving, weights, options, watch)
    held = initial is None and options.restrict_xyz is not None
    if held:  # what may not move stays where the headers put it
        initial = identity_transform(fixed.grid.dimension)
    with watch.stage("preprocessing"):
        prepared = prepare(fixed, moving, weights, options, initial)
    guides = guides_of(options, options.known, prepared, weights)
    pair = replace(pair_of(prepared, weights.device, options), guides=guides)
    instance = None if options.linear is not None else options.instance
    align = weights.config.model.align_corners
    freedom = freedom_of(options, fixed.grid, prepared.fixed.grid, align)
    looks = options.regularity, options.rough
    found = find_maps(pair, weights, instance, *looks, freedom, watch, progress)
    with watch.stage("transform"), torch.inference_mode():
        forward, backward = _physical(
            found.forward, found.backward, prepared, fixed, moving, weights
        )
        if held:
            forward, backward = _fields_alone(forward), _fields_alone(backward)
        if options.linear is None and options.repair_folds:
            forward = CompositeTransform(without_folds(forward).parts)
        spread = _spread_mm(found.forward, prepared) if options.match_spread else None
    if options.linear is not None:
        with watch.stage("linear fit"):
            own = (prepared, pair) if initial is None else _apart(fixed, moving, weights, options)
            forward, backward = _linear(forward, prepared, own, weights, options.linear, progress)
    return Registration(
        forward,
        backward,
        prepared,
        found.losses,
        watch.seconds,
        spread,
        found.evidence,
        found.metric,
    )


def _check(fixed: Image, weights: Weights, options: RegistrationOptions) -> None:
    dimension = weights.config.model.dimension
    if fixed.grid.dimension != dimension:
        raise InputError(
            f"{fixed.source or 'the fixed image'} has {fixed.grid.dimension} dimensions, "
            f"the weights {weights.config.name} are for {dimension}",
            "choose other weights",
        )
    check_restrict(options, fixed.grid.dimension)
    check_regularity(options, weights, options.instance is not None)
    if options.initial is not None and options.init != "none":
        raise UsageError("an initial transform and --init were both given", "give one of them")
    counts = len(options.fixed_channels), len(options.moving_channels)
    check_channels(counts, weights, options.instance)
    options.shares(1 + len(options.fixed_channels))
    if options.initial is not None:
        options.initial.inverse()  # raises where it has none


def _initial(
    fixed: Image,
    moving: Image,
    weights: Weights,
    options: RegistrationOptions,
    watch: Stopwatch,
) -> Transform | None:
    if options.init == "none":
        return options.initial
    if options.init == "centers" or options.init == "moments":
        return initialise(fixed, moving, options.init, options)
    turned: Transform | None = None
    if options.init == "rigid" and attention_of(weights.network) is not None:
        with watch.stage("search of the rotation"), torch.inference_mode():
            turned = _turned(fixed, moving, weights, options, watch.progress)
    stage = f"{options.init} initialisation"
    with watch.stage(stage), torch.inference_mode():
        prepared = prepare(fixed, moving, weights, options, turned)
        pair = pair_of(prepared, weights.device, options)
        network = weighing(weights.network, pair.channel_weights)
        forward_map, backward_map = network_maps(network, pair, stage, watch.progress)
        forward, _ = _physical(forward_map, backward_map, prepared, fixed, moving, weights)
        return fit_linear(options.init, forward, prepared)


def _turned(
    fixed: Image,
    moving: Image,
    weights: Weights,
    options: RegistrationOptions,
    progress: Progress,
) -> Transform:
    rule = searched_rule(weights.config.preprocess)
    small = weights.prepared_by(rule)
    return search_rotation(prepare(fixed, moving, small, options), small, progress)


def prepare(
    fixed: Image,
    moving: Image,
    weights: Weights,
    options: RegistrationOptions,
    initial: Transform | None = None,
) -> PreparedPair:
    """The pair as the network will see it. Raises as `register` does."""
    _check(fixed, weights, options)
    return prepare_pair(
        fixed,
        moving,
        weights.config.preprocess,
        options,
        fixed_mask=options.fixed_mask,
        moving_mask=options.moving_mask,
        initial=initial,
        channels=(options.fixed_channels, options.moving_channels),
    )


def _physical(
    forward_map: Map,
    backward_map: Map,
    prepared: PreparedPair,
    fixed: Image,
    moving: Image,
    weights: Weights,
) -> tuple[CompositeTransform, CompositeTransform]:
    """The two maps between the network grids as transforms between the images, LPS mm.

    With an initial transform T the moving image was sampled through T onto the fixed grid,
    so forward = T ∘ network and backward = network ∘ T⁻¹.
    """
    align = weights.config.model.align_corners
    a, b = prepared.fixed.grid, prepared.moving.grid
    forward = from_network(displacement_voxels(forward_map, a.shape_zyx, align), a, b, fixed.grid)
    cover = moving.grid if prepared.initial is None else fixed.grid
    backward = from_network(displacement_voxels(backward_map, b.shape_zyx, align), b, a, cover)
    if prepared.initial is None:
        return forward, backward
    forward = CompositeTransform((prepared.initial, *forward.parts))
    return forward, CompositeTransform((*backward.parts, prepared.initial.inverse()))


def _fields_alone(transform: CompositeTransform) -> CompositeTransform:
    """Without affine parts that are the identity but for rounding: 0 stays 0."""
    return CompositeTransform(p for p in transform.parts if isinstance(p, DisplacementField))


def displacement_voxels(
    phi: Map, shape: tuple[int, ...], align_corners: bool
) -> NDArray[np.float32]:
    """(D, *shape) displacement in voxels, components in array-axis order."""
    on_grid = phi.on_grid(shape)
    voxels = voxels_per_unit(shape, align_corners).to(on_grid.device)
    moved = on_grid - identity(shape, align_corners, on_grid.device)
    result: NDArray[np.float32] = (
        (moved[0] * voxels.view(-1, *[1] * len(shape))).float().cpu().numpy()
    )
    return result


def _linear(
    forward: Transform,
    prepared: PreparedPair,
    own: tuple[PreparedPair, Pair],
    weights: Weights,
    kind: Linear,
    progress: Progress,
) -> tuple[CompositeTransform, CompositeTransform]:
    """Both directions of the transform of this kind; own: see `_apart`."""
    fitted = fit_linear(kind, forward, prepared)
    fitted = refine_linear(kind, fitted, *own, weights.config.model.align_corners, progress)
    return CompositeTransform((fitted,)), CompositeTransform((fitted.inverse(),))


def _apart(
    fixed: Image, moving: Image, weights: Weights, options: RegistrationOptions
) -> tuple[PreparedPair, Pair]:
    """Both images on grids of their own: the moving one has been seen through the initial
    transform, which need not be of the kind that is asked for."""
    prepared = prepare(fixed, moving, weights, options)
    return prepared, pair_of(prepared, weights.device, options)


def _spread_mm(phi: Map, prepared: PreparedPair) -> NDArray[np.float32] | None:
    """Length of the attention rows' standard deviations (voxels) over all axes, in mm; None for
    a map that began without Ξ."""
    if phi.spread is None:
        return None
    spread = phi.spread[0].float().cpu()
    grid, shape = prepared.moving.grid, spread.shape[1:]
    voxel_mm = [
        n * mm / coarse
        for n, mm, coarse in zip(grid.shape_zyx, grid.spacing_mm[::-1], shape, strict=True)
    ]
    spread_mm = spread * torch.tensor(voxel_mm).view(-1, *[1] * len(shape))
    return np.asarray(spread_mm.square().sum(0).sqrt().numpy(), np.float32)

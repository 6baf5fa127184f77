"""Two images as a network sees them → maps of both directions: network → alignment → instance
optimisation, with the regularity that was asked for.

One stiffness scales all that makes a map smooth: the Gaussians over each step of alignment and of
scope "field", the elasticity, and by its square the weight of GradICON. Where more than usual was
asked for, the map that they lead to is smoothed as a whole, too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from carl_cli.errors import UsageError
from carl_cli.model.coarse import weighing
from carl_cli.model.effort import watched
from carl_cli.model.fields import Map
from carl_cli.model.operators import Registrar
from carl_cli.progress import Progress, Stopwatch
from carl_cli.registration.alignment import Maps, align, evidence
from carl_cli.registration.contexts import Contexts, Pair
from carl_cli.registration.diffeomorphic import relaxed
from carl_cli.registration.freedom import Freedom
from carl_cli.registration.instance import (
    InstanceOptions,
    fit_maps,
    optimise,
    unlimited,
    with_metric,
)
from carl_cli.registration.options import StartOptions
from carl_cli.registration.tissues import tissue_channels
from carl_cli.weights.folder import AlignmentRule, Weights

# Times the usual at regularity 0 and 1. Below 0.7 steps get lost in noise: their map is no softer.
SOFTEST, STIFFEST = 0.7, 4.0
SIGMA = 2.0  # voxels, of the whole map, for each unit of stiffness above the usual
ROUGH = 1 / 3  # of the steps, for a rough map
LEAST_SMOOTHING = 0.1  # voxels: below it a Gaussian does nothing


class FoundMaps(NamedTuple):
    """Maps of both directions, and what is known of how they were found."""

    forward: Map
    backward: Map
    losses: list[float]
    evidence: float | None = None
    metric: str = ""


def stiffness(regularity: float) -> float:
    """What is usual is multiplied with this: exactly 1 at a regularity of 0.5."""
    most = STIFFEST if regularity > 0.5 else SOFTEST
    return float(most ** abs(2 * regularity - 1))


def check_regularity(options: StartOptions, weights: Weights, fitted: bool) -> None:
    """Raise UsageError where nothing could be made stiffer, or softer."""
    given, stiff = f"--regularity {options.regularity:g} was given", stiffness(options.regularity)
    if stiff != 1 and options.linear is not None:
        raise UsageError(f"{given} with --transform {options.linear}", "leave it out")
    if stiff < 1 and weights.config.alignment is None and not fitted:
        raise UsageError(
            f"{given}, but the map of {weights.config.name} is taken as it is", "add --io"
        )


def find_maps(
    pair: Pair,
    weights: Weights,
    instance: InstanceOptions | None,
    regularity: float,
    rough: bool,
    freedom: Freedom | None,
    watch: Stopwatch,
    progress: Progress,
) -> FoundMaps:
    """The network's maps, aligned where the weights ask for it, fitted where `instance` does.

    regularity: from 0, soft, over 0.5, the usual, to 1, stiff. rough: in fewer steps of alignment.
    freedom: where not all may move.
    """
    losses: list[float] = []
    align_corners, stiff = weights.config.model.align_corners, stiffness(regularity)
    limited = unlimited if freedom is None else freedom.restricted
    steps = None if freedom is None else freedom.voxels
    if instance is not None:
        instance = _stiffened(instance, stiff)
        if instance.scope != "field":
            with watch.stage("instance optimisation"):
                *fitted, losses = optimise(
                    weights.network, pair, instance, align_corners, progress, limited
                )
                first, second = _smoothed((fitted[0], fitted[1]), pair, align_corners, stiff)
                return FoundMaps(first, second, losses)
    with watch.stage("network"), torch.inference_mode():
        network = weighing(weights.network, pair.channel_weights)
        maps = limited(network_maps(network, pair, "network", progress))
    known = None
    if weights.config.alignment is not None:
        rule = _rule(weights.config.alignment, stiff, rough)
        with watch.stage("alignment"):
            known = Contexts(pair, rule, _tissues(pair, weights))
            maps, known = align(maps, known, align_corners, progress, steps)
            pair = known.pair  # perhaps with masks
    metric = ""
    if instance is not None:
        with watch.stage("instance optimisation"):
            instance = with_metric(instance, maps[0], pair, align_corners)
            first, second, losses = fit_maps(
                maps, pair, instance, align_corners, known, progress, steps
            )
            maps = first, second
            metric = instance.metric
    maps = _smoothed(maps, pair, align_corners, stiff)
    shown = None if known is None else evidence(maps[0], known, align_corners)
    return FoundMaps(*maps, losses, shown, metric)


def _tissues(pair: Pair, weights: Weights) -> tuple[Tensor, Tensor] | None:
    if weights.tissues is None:
        return None
    images = pair.fixed, pair.moving
    return tissue_channels(weights.tissues, images, pair.channel_weights, pair.voxel_ml)


def network_maps(network: Registrar, pair: Pair, stage: str, progress: Progress) -> Maps:
    """Both directions; progress hears how far the stage is and what the network does."""
    with watched(network, pair.fixed, partial(progress, stage)):
        return network.both_directions(pair.fixed, pair.moving)


def _stiffened(options: InstanceOptions, stiff: float) -> InstanceOptions:
    return replace(
        options,
        smoothing=max(options.smoothing * stiff, LEAST_SMOOTHING),
        regularisation=options.regularisation * stiff**2,
    )


def _rule(rule: AlignmentRule, stiff: float, rough: bool) -> AlignmentRule:
    smoothing = max(rule.smoothing * stiff, LEAST_SMOOTHING)
    stiffer = {"smoothing": smoothing, "elasticity": rule.elasticity * stiff}
    steps = math.ceil(rule.steps * ROUGH) if rough else rule.steps
    return rule.model_copy(update={"steps": steps, **stiffer})


def _smoothed(maps: Maps, pair: Pair, align_corners: bool, stiff: float) -> Maps:
    if stiff <= 1:
        return maps
    with torch.no_grad():
        return relaxed(maps, (pair.fixed, pair.moving), align_corners, SIGMA * (stiff - 1))

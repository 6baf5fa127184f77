"""Instance optimisation: the result fitted to one pair, through the network or without it.

Scopes "all" and "refine" fit a private copy of the network (Eq. 18): loss = similarity(F, M ∘ φ)
+ similarity(M, F ∘ φ⁻) + λ GradICON(φ, φ⁻), with φ the map fixed → moving and φ⁻ the network's
map moving → fixed; the best state seen is kept. Scope "field" moves the maps themselves, see
`diffeomorphic`: many times quicker on a CPU, and as close as the images allow.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from carl_cli.model.coarse import coarse_images, coarse_network, with_coarse
from carl_cli.model.encoder import Block
from carl_cli.model.execution import set_execution
from carl_cli.model.fields import Map, sample
from carl_cli.model.operators import Kept, Registrar
from carl_cli.model.regularity import gradicon
from carl_cli.model.similarity import by_name, over_channels, squared_difference
from carl_cli.model.unet import DisplacementUNet
from carl_cli.preprocessing.options import option_group
from carl_cli.progress import Progress, silent
from carl_cli.registration.alignment import Maps, alike
from carl_cli.registration.contexts import Contexts, Pair
from carl_cli.registration.diffeomorphic import SCALES, Descent, Scale, refine
from carl_cli.weights.folder import AlignmentRule, InstanceDefaults
from carl_cli.weights.options import Seed

log = logging.getLogger(__name__)
NO_NUMBER = "instance optimisation: no finite loss after %d steps; the best state before is taken"
STAGE = "instance optimisation"
ALIGNED_SCALES = SCALES[2:]  # half and all of the grid
SETTLED = 1e-3  # of the loss: less than this in `patience` steps is worth no more of them


Limits = Callable[[Maps], Maps]


def unlimited(maps: Maps) -> Maps:
    return maps


@option_group
class InstanceOptions(InstanceDefaults):
    """All that `optimise` has to know. seed: of the points where GradICON is measured."""

    seed: Seed = 0


def optimise(
    network: Registrar,
    pair: Pair,
    options: InstanceOptions,
    align_corners: bool,
    progress: Progress = silent,
    limited: Limits = unlimited,
) -> tuple[Map, Map, list[float]]:
    """Maps fixed → moving and moving → fixed after fitting, and the loss of every state.

    The network that is passed in is not changed. Loss k belongs to the state after k steps.
    limited: what is done to the network's two maps, in scopes "all" and "refine".
    """
    if options.scope == "field" or options.metric == "auto":
        with torch.no_grad():
            maps = network.both_directions(pair.fixed, pair.moving)
        options = with_metric(options, maps[0], pair, align_corners)
        if options.scope == "field":
            return fit_maps(maps, pair, options, align_corners, None, progress)
    private = _private_copy(network, pair, options)
    trained = [p for p in private.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=options.learning_rate)
    drawn = torch.Generator().manual_seed(options.seed)
    measure = _loss_of(options, align_corners, drawn, limited)
    best = _Best(trained)
    for step in range(options.steps):
        loss = measure(private, pair)
        if not best.note(loss.item()) or best.settled(options.patience):
            break
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        progress(STAGE, (step + 1) / options.steps, f"loss {best.losses[-1]:.4f}")
    else:
        with torch.no_grad():
            best.note(measure(private, pair).item())
    best.restore()
    with torch.no_grad():
        return *limited(private.both_directions(pair.fixed, pair.moving)), best.losses


def with_metric(
    options: InstanceOptions, forward: Map, pair: Pair, align_corners: bool
) -> InstanceOptions:
    """The options with `auto` replaced: lncc for images of one contrast, else mind."""
    if options.metric != "auto":
        return options
    same = alike(forward, pair, align_corners)
    return replace(options, metric="lncc" if same else "mind")


def fit_maps(
    maps: tuple[Map, Map],
    pair: Pair,
    options: InstanceOptions,
    align_corners: bool,
    known: Contexts | None = None,
    progress: Progress = silent,
    freedom: Tensor | None = None,
) -> tuple[Map, Map, list[float]]:
    """Scope "field": the given maps moved, and the loss at each step. known: by which
    they were aligned before; then the coarse scales are done. freedom: see `Descent`."""
    scales = _scales_left(known, options.metric)
    known = known or Contexts(pair, AlignmentRule(elasticity=0.0))
    similarity = by_name(options.metric, options.sigma, options.variance_floor, within=pair.masked)
    descent = Descent(
        over_channels(similarity, pair.channel_weights),
        options.steps,
        options.smoothing,
        scales=scales,
        freedom=freedom,
        guides=pair.guides,
    )
    if options.metric == "mind":
        descent = replace(
            descent,
            similarity=squared_difference,
            channels=known.with_tissues,
            patches=True,
            elasticity=known.rule.elasticity,
        )
    return refine(
        maps,
        (pair.fixed, pair.moving),
        (pair.fixed_mask, pair.moving_mask),
        align_corners,
        descent,
        lambda share, told: progress(STAGE, share, told),
    )


def _scales_left(known: Contexts | None, metric: str) -> tuple[Scale, ...]:
    """For images that were aligned, or (None) were not. Half of the grid again, by a metric that
    does not look at the tissues, would undo what these brought."""
    if known is None:
        return SCALES
    return SCALES[-1:] if known.tissues and metric != "mind" else ALIGNED_SCALES


def _private_copy(network: Registrar, pair: Pair, options: InstanceOptions) -> Registrar:
    """A copy that keeps little for its backward passes: Conv_θ, recomputed as a whole, would be
    the largest thing that exists at one time, so it is recomputed block by block."""
    private = copy.deepcopy(network).eval()
    if options.scope == "refine":
        with torch.no_grad():
            images = coarse_images(private, pair.fixed, pair.moving)
            private = with_coarse(private, Kept(*coarse_network(private).both_directions(*images)))
    return set_execution(private, (Block, DisplacementUNet), recompute=True).requires_grad_(True)


class _Best:
    """The parameters of the lowest loss so far, kept in buffers of their own."""

    def __init__(self, trained: Sequence[Tensor]) -> None:
        self.trained = trained
        self.values = [p.detach().clone() for p in trained]
        self.losses: list[float] = []

    def note(self, loss: float) -> bool:
        """The loss of the parameters as they are now; False, with a warning, if it is no number."""
        if not math.isfinite(loss):
            log.warning(NO_NUMBER, len(self.losses))
            return False
        if not self.losses or loss < min(self.losses):
            _copy(self.trained, self.values)
        self.losses.append(loss)
        return True

    def settled(self, patience: int) -> bool:
        """Whether the last `patience` steps gained next to nothing; never, if that is 0."""
        if not 0 < patience < len(self.losses):
            return False
        return min(self.losses[:-patience]) - min(self.losses) < SETTLED

    def restore(self) -> None:
        _copy(self.values, self.trained)


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for a, b in zip(source, target, strict=True):
            b.copy_(a)


def _loss_of(
    options: InstanceOptions,
    align_corners: bool,
    generator: torch.Generator,
    limited: Limits = unlimited,
) -> Callable[[Registrar, Pair], Tensor]:
    similarity = by_name(options.metric, options.sigma, options.variance_floor)

    def measure(network: Registrar, pair: Pair) -> Tensor:
        forward, backward = limited(network.both_directions(pair.fixed, pair.moving))
        shape = pair.fixed.shape[2:]
        warped_moving = sample(pair.moving, forward.on_grid(shape), align_corners)
        warped_fixed = sample(pair.fixed, backward.on_grid(shape), align_corners)
        alike = similarity(warped_moving, pair.fixed, pair.fixed_mask) + similarity(
            warped_fixed, pair.moving, pair.moving_mask
        )
        regular = gradicon(
            forward,
            backward,
            shape,
            align_corners,
            generator,
            stride=options.gradicon_stride,
            device=pair.fixed.device,
        )
        return alike + options.regularisation * regular

    return measure

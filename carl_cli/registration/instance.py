"""Instance optimisation: the result fitted to one pair, through the network or without it.

Scopes "all" and "refine" fit a private copy of the network (Eq. 18): loss = similarity(F, M ∘ φ)
+ similarity(M, F ∘ φ⁻) + λ GradICON(φ, φ⁻), with φ the map fixed → moving and φ⁻ the network's
map moving → fixed; the best state seen is kept. Scope "field" moves the maps themselves, see
`diffeomorphic`: many times quicker on a CPU, and as close as the images allow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carl_cli.model.fields import Map, sample
from carl_cli.model.network import coarse_images, coarse_network, with_coarse
from carl_cli.model.operators import Kept, Registrar
from carl_cli.model.recompute import checkpointed
from carl_cli.model.regularity import gradicon
from carl_cli.model.similarity import VARIANCE_FLOOR, by_name
from carl_cli.progress import Progress, silent
from carl_cli.registration.diffeomorphic import Descent, refine

STAGE = "instance optimisation"
SETTLED = 1e-3  # of the loss: less than this in `patience` steps is worth no more of them


@dataclass(frozen=True)
class InstanceOptions:
    """metric by name; sigma of its window in voxels, and the floor of its variances.

    scope "all" trains every parameter (the paper) and "refine" all but Ξ's: `steps` of Adam at
    `learning_rate`, λ = regularisation of GradICON at every `gradicon_stride`-th voxel along each
    axis; fewer, if the loss has settled for `patience` of them (0,
    the paper: never). scope "field" changes the maps themselves: `steps` at
    most on the network grid, up to four times that below, each smoothed by `smoothing` voxels.
    """

    steps: int = 50
    learning_rate: float = 2e-5
    metric: str = "lncc"
    sigma: int = 5
    regularisation: float = 1.5
    scope: str = "all"
    seed: int = 0
    variance_floor: float = VARIANCE_FLOOR
    smoothing: float = 2.0
    patience: int = 0
    gradicon_stride: int = 2


@dataclass(frozen=True)
class Pair:
    """Images (1, 1, *shape) in [0, 1] and masks (or None), on one device."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None


def optimise(
    network: Registrar,
    pair: Pair,
    options: InstanceOptions,
    align_corners: bool,
    progress: Progress = silent,
) -> tuple[Map, Map, list[float]]:
    """Maps fixed → moving and moving → fixed after fitting, and the loss of every state.

    The network that is passed in is not changed. Loss k belongs to the state after k steps.
    """
    if options.scope == "field":
        return _fit_maps(network, pair, options, align_corners, progress)
    private = _private_copy(network, pair, options.scope)
    trained = [p for p in private.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=options.learning_rate)
    measure = _loss_of(options, align_corners, torch.Generator().manual_seed(options.seed))
    best = _Best(trained)
    for step in range(options.steps):
        loss = measure(private, pair)
        best.note(loss.item())
        if best.settled(options.patience):
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
        return *private.both(pair.fixed, pair.moving), best.losses


def _fit_maps(
    network: Registrar,
    pair: Pair,
    options: InstanceOptions,
    align_corners: bool,
    progress: Progress,
) -> tuple[Map, Map, list[float]]:
    similarity = by_name(options.metric, options.sigma, options.variance_floor)
    with torch.no_grad():
        maps = network.both(pair.fixed, pair.moving)
    return refine(
        maps,
        (pair.fixed, pair.moving),
        (pair.fixed_mask, pair.moving_mask),
        align_corners,
        Descent(similarity, options.steps, options.smoothing),
        lambda share, loss: progress(STAGE, share, f"loss {loss:.4f}"),
    )


def _private_copy(network: Registrar, pair: Pair, scope: str) -> Registrar:
    """Copied first: then it can be made to keep little for its backward passes."""
    private = copy.deepcopy(network).eval()
    if scope == "refine":
        with torch.no_grad():
            images = coarse_images(private, pair.fixed, pair.moving)
            private = with_coarse(private, Kept(*coarse_network(private).both(*images)))
    return checkpointed(private).requires_grad_(True)


class _Best:
    """The parameters of the lowest loss so far, kept in buffers of their own."""

    def __init__(self, trained: Sequence[Tensor]) -> None:
        self.trained = trained
        self.values = [torch.empty_like(p) for p in trained]
        self.losses: list[float] = []

    def note(self, loss: float) -> None:
        """The loss of the parameters as they are now."""
        if not self.losses or loss < min(self.losses):
            _copy(self.trained, self.values)
        self.losses.append(loss)

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
    options: InstanceOptions, align_corners: bool, generator: torch.Generator
) -> Callable[[Registrar, Pair], Tensor]:
    similarity = by_name(options.metric, options.sigma, options.variance_floor)

    def measure(network: Registrar, pair: Pair) -> Tensor:
        ahead, back = network.both(pair.fixed, pair.moving)
        shape = pair.fixed.shape[2:]
        warped_moving = sample(pair.moving, ahead.on_grid(shape), align_corners)
        warped_fixed = sample(pair.fixed, back.on_grid(shape), align_corners)
        alike = similarity(warped_moving, pair.fixed, pair.fixed_mask) + similarity(
            warped_fixed, pair.moving, pair.moving_mask
        )
        regular = gradicon(
            ahead,
            back,
            shape,
            align_corners,
            generator,
            stride=options.gradicon_stride,
            device=pair.fixed.device,
        )
        return alike + options.regularisation * regular

    return measure

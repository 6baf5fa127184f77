"""A prepared pair as the tensors that are registered."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from carl_cli.errors import UsageError
from carl_cli.preprocessing.pair import PreparedPair
from carl_cli.registration.contexts import Pair
from carl_cli.registration.instance import InstanceOptions
from carl_cli.registration.options import ChannelOptions
from carl_cli.weights.folder import Weights


def check_channels(counts: tuple[int, int], weights: Weights, fit: InstanceOptions | None) -> None:
    """Raise UsageError for further contrasts of one image alone, or for weights or a scope of
    instance optimisation (None: not done) that take one: only Ξ and the maps themselves take more.
    """
    fixed, moving = counts
    if fixed != moving:
        raise UsageError(
            f"{fixed} further contrasts of the fixed image meet {moving} of the moving one",
            "give each contrast of both images, in the same order",
        )
    model = weights.config.model
    if fixed and (model.coarse != "attention" or model.refine_scales):
        raise UsageError(
            f"the weights {weights.config.name} take one contrast",
            "use carl-base, or leave out the channels",
        )
    if fixed and fit is not None and fit.scope != "field":
        raise UsageError(f"--io-scope {fit.scope} takes one contrast", "add --io-scope field")


def pair_of(prepared: PreparedPair, device: str, options: ChannelOptions) -> Pair:
    """Images (1, C, *shape), without contrasts of weight 0, and masks (1, 1, *shape) on a device.

    Raises UsageError where there are not as many weights as contrasts.
    """

    def tensor(array: NDArray[np.generic] | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(array)[None, None].to(device)

    sides = prepared.fixed, prepared.moving
    shares = options.shares(1 + len(prepared.fixed.others))
    kept = [k for k, share in enumerate(shares) if share]
    contrasts = ([side.array, *side.others] for side in sides)
    images = (torch.from_numpy(np.stack([all_[k] for k in kept])) for all_ in contrasts)
    fixed, moving = (image[None].to(device) for image in images)
    first, second = (tensor(side.mask) for side in sides)
    shares = tuple(shares[k] for k in kept)
    volumes = [math.prod(side.grid.spacing_mm) / 1000 for side in sides]
    return Pair(fixed, moving, first, second, shares, (volumes[0], volumes[1]))

"""What a network makes of a fixed pair of noise images: figures to know it by."""

from __future__ import annotations

import torch

from carl_cli.errors import WeightsError
from carl_cli.model.fields import identity
from carl_cli.model.network import ModelConfig
from carl_cli.model.operators import Registrar

_SIDE = 48  # voxels at least
_TOLERANCE = 1e-3  # of the image: devices and versions of torch differ by 1e-5


def figures(network: Registrar, model: ModelConfig) -> tuple[float, ...]:
    """Mean and root mean square displacement along each axis, there and back, for noise.

    In unit coordinates. The network stays as it is; it runs on the CPU.
    """
    shape = (_side(model),) * model.dimension
    generator = torch.Generator().manual_seed(0)
    size = (1, model.channels, *shape)
    fixed, moving = (torch.rand(size, generator=generator) for _ in range(2))
    start = identity(shape, model.align_corners)
    found: list[float] = []
    with torch.inference_mode():
        for phi in network.both_directions(fixed, moving):
            moved = (phi.on_grid(shape) - start)[0].flatten(1)
            found += [*moved.mean(1).tolist(), *moved.square().mean(1).sqrt().tolist()]
    return tuple(round(value, 6) for value in found)


def _side(model: ModelConfig) -> int:
    """Voxels that leave two at the last halving of the coarsest U-Net."""
    scales = model.unet_scales + ((model.coarse_scale,) if model.coarse == "unet" else ())
    return max(_SIDE, max(scales, default=1) * (2 ** (len(model.unet.down) - 1) + 1))


def check_figures(found: tuple[float, ...], expected: tuple[float, ...], source: str) -> float:
    """Largest difference. Raises WeightsError if it is more than rounding explains."""
    if len(found) != len(expected):
        raise WeightsError(
            f"{source}: {len(expected)} figures of the self-test in its config.json, "
            f"{len(found)} expected"
        )
    gap = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    if not gap <= _TOLERANCE:
        raise WeightsError(
            f"{source}: on the test pair this network is {gap:.1e} of the image away from the "
            "figures in its config.json",
            "compare `carl doctor` here and where the weights work",
        )
    return gap

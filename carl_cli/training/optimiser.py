"""What turns gradients into weights: the learning rate, the average of weights, and what makes
the convolutions quick.

The heavy parts are Conv_θ and each Ψ; what they hand on (features, displacements) stays
float32, because positions need more than the 8 bits of bfloat16.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel

from carl_cli.model.devices import multiplies_bfloat16
from carl_cli.model.encoder import Encoder
from carl_cli.model.execution import set_execution
from carl_cli.model.tissues import TissueNetwork
from carl_cli.model.unet import DisplacementUNet
from carl_cli.training.tables import RuntimeConfig, StageConfig

LAST_FRACTION = 0.01  # of the learning rate, at the end of a cosine


def scheduler(optimiser: torch.optim.Optimizer, stage: StageConfig) -> LRScheduler:
    """A linear warm-up, then constant or half a cosine."""
    rest = stage.steps - stage.warmup_steps
    after: LRScheduler = ConstantLR(optimiser, factor=1.0, total_iters=0)
    if stage.schedule == "cosine":
        lowest = LAST_FRACTION * stage.learning_rate
        after = CosineAnnealingLR(optimiser, max(rest - 1, 1), lowest)
    if not stage.warmup_steps:
        return after
    first = 1 / (stage.warmup_steps + 1)
    rise = LinearLR(optimiser, start_factor=first, total_iters=stage.warmup_steps)
    return SequentialLR(optimiser, [rise, after], [stage.warmup_steps])


def averaged_model(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and running statistics, in eval mode.

    The decay grows from 0.1 to `decay` in the first steps, so that the start is soon forgotten.
    """

    def blended(average: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return new
        return average.lerp(new, 1 - min(decay, (1 + int(updates)) / (10 + int(updates))))

    return AveragedModel(network, avg_fn=blended, use_buffers=True).eval()


def speed_up(network: nn.Module, runtime: RuntimeConfig, device: torch.device) -> None:
    """Make the heavy parts compute as the configuration says. State dicts don't change."""
    low = runtime.bfloat16
    if low == "auto":
        low = device.type == "cpu" and multiplies_bfloat16()
    last = runtime.channels_last
    if low and device.type == "cpu" if last == "auto" else last:
        flat = any(isinstance(layer, nn.Conv2d) for layer in network.modules())
        order = torch.channels_last if flat else torch.channels_last_3d
        network.to(memory_format=order)  # type: ignore[call-overload]
    set_execution(
        network,
        (Encoder, DisplacementUNet, TissueNetwork),
        recompute=runtime.gradient_checkpointing,
        bfloat16=low,
        compiled=runtime.compile,
    )
    if runtime.gradient_checkpointing:
        _halve_momentum(network)


def _halve_momentum(module: nn.Module) -> None:
    """Recomputation updates running statistics twice; two updates with 1 - √(1 - m) are
    one with m."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = 1 - math.sqrt(1 - (norm.momentum or 0.0))

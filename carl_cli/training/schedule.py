"""The learning rate of each step, as a function of the step alone."""

from __future__ import annotations

import math

from carl_cli.training.config import StageConfig

LAST_FRACTION = 0.01  # of the learning rate, at the end of a cosine


def learning_rate(stage: StageConfig, step: int) -> float:
    """Of step 0 … stage.steps - 1: a linear warm-up, then constant or half a cosine."""
    rise = min(1.0, (step + 1) / (stage.warmup_steps + 1))
    if stage.schedule == "constant":
        return stage.learning_rate * rise
    part = step / max(stage.steps - 1, 1)
    fall = LAST_FRACTION + (1 - LAST_FRACTION) * (0.5 + 0.5 * math.cos(math.pi * min(part, 1.0)))
    return stage.learning_rate * rise * fall

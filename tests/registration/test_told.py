"""Whoever watches a registration sees every stage go on, and never back."""

from __future__ import annotations

import numpy as np
import pytest

from carl_cli import register
from carl_cli.geometry import Grid

STAGES = ("network", "alignment", "instance optimisation")


@pytest.fixture(scope="module")
def told() -> dict[str, list[tuple[float, str]]]:
    """Stage → what was told of it, of a ball and a shifted one on 32³ voxels by `carl-base`."""
    places = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), axis=-1)
    balls = [np.exp(-(((places - middle) / 8) ** 2).sum(-1)) for middle in (15, 18)]
    found: dict[str, list[tuple[float, str]]] = {stage: [] for stage in STAGES}

    def progress(stage: str, part: float, detail: str = "", /) -> None:
        found.setdefault(stage, []).append((part, detail))

    grid = Grid((32, 32, 32), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    register((balls[0], grid), (balls[1], grid), progress=progress, io=True)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_rises_from_nothing_to_the_end(
    told: dict[str, list[tuple[float, str]]], stage: str
) -> None:
    parts = [part for part, _ in told[stage]]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 1)
    assert len(set(parts)) > 20


def test_details_say_what_is_done(told: dict[str, list[tuple[float, str]]]) -> None:
    words = {stage: {detail.split(",")[0] for _, detail in told[stage]} for stage in STAGES}
    assert words["network"] == {"", "features", "matching"}
    assert words["instance optimisation"] == {"", "scale 1 of 2", "scale 2 of 2"}

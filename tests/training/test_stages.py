"""From stage to stage: which part learns, how levels grow, what a new refinement starts from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from carl_cli.training.config import TrainConfig, model_at
from carl_cli.training.loop import train
from carl_cli.training.run_folder import load_state
from carl_cli.training.start import averaged, parts
from tests.training.conftest import TINY_MODEL
from tests.training.test_loop import MATCH, REGISTER


def test_only_the_chosen_part_learns(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    stages = [{**MATCH, "steps": 1}, {**REGISTER, "steps": 2, "train": "refinements"}]
    config = make_config(stages)
    states = []
    for _ in range(3):
        train(config, tmp_path, resume=True, max_seconds=0)
        states.append(load_state(tmp_path, "last"))
    coarse = [k for k in states[0]["average"] if "encoder" in k]
    refined = [k for k in states[0]["average"] if k.endswith("last.weight")]
    assert coarse
    assert refined
    assert all(torch.equal(states[0]["average"][k], states[2]["average"][k]) for k in coarse)
    assert any(not torch.equal(states[0]["average"][k], states[2]["average"][k]) for k in refined)


def test_an_extra_step_continues_the_first_network(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    stages = [{**REGISTER, "steps": 2}, {**REGISTER, "steps": 1, "extra_step": True}]
    stages[1]["learning_rate"] = 1e-12
    config = make_config(stages, initial=None)
    states = []
    for _ in range(3):
        train(config, tmp_path, resume=True, max_seconds=0)
        states.append(load_state(tmp_path, "last"))
    assert [state["number"] for state in states] == [0, 0, 1]
    # A rate of 1e-12 changes nothing that float32 can hold, so the first part is as it was.
    for name, value in states[1]["average"].items():
        torch.testing.assert_close(states[2]["average"][f"first.{name}"], value)


def test_levels_grow_into_the_whole_network(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    model = {**TINY_MODEL, "coarse_scale": 4, "refine_scales": (2, 1)}
    still = {"learning_rate": 1e-12}
    stages = [
        {**MATCH, "steps": 1, "levels": 0, "shape_zyx": (8, 8, 8), "padding": 4},
        {**REGISTER, "steps": 3, "levels": 1, "train": "refinements"},
        {**REGISTER, **still, "steps": 1, "new_refinement": "copy"},
    ]
    config = make_config(stages, model=model)
    assert [
        (m.coarse_scale, m.refine_scales) for m in map(partial(model_at, config), range(3))
    ] == [
        (1, ()),
        (2, (1,)),
        (4, (2, 1)),
    ]
    assert train(config, tmp_path, resume=True, max_seconds=0) == "time"
    for _ in range(3):
        train(config, tmp_path, resume=True, max_seconds=0)
    half = load_state(tmp_path, "last")
    whole, _ = averaged(half)
    fixed, moving = torch.rand(2, 1, 1, 32, 32, 32)
    coarse, first, last = parts(whole)
    assert coarse.padding == 2  # the model's own, not the stage's
    with torch.no_grad():
        assert last(fixed, moving).displacement_BDx.abs().max() == 0
        assert first(fixed, moving).displacement_BDx.abs().max() > 0

    assert train(config, tmp_path, resume=True) == "finished"
    _, first_now, last_now = parts(averaged(load_state(tmp_path, "last"))[0])
    for name, value in first.state_dict().items():
        torch.testing.assert_close(first_now.state_dict()[name], value)
        torch.testing.assert_close(last_now.state_dict()[name], value)


SYMMETRIC = {"coarse_symmetric": True, "refine_symmetric": True, "window": {"radius": 1}}


def test_levels_of_a_network_with_windows(make_config: Callable[..., TrainConfig]) -> None:
    model = {**TINY_MODEL, "coarse_scale": 4, "window_scales": (2,), "refine_scales": (2, 1)}
    stages = [{**MATCH, "levels": 0}, {**REGISTER, "levels": 1}, REGISTER]
    config = make_config(stages, model={**model, **SYMMETRIC})
    described = map(partial(model_at, config), range(3))
    assert [(m.coarse_scale, m.window_scales, m.refine_scales) for m in described] == [
        (1, (), ()),
        (2, (1,), (1,)),
        (4, (2,), (2, 1)),
    ]


def test_symmetric_refinements_learn(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Through what makes the directions inverse: Ψ began as the identity, and moves."""
    model = {**TINY_MODEL, "window_scales": (1,), **SYMMETRIC}
    config = make_config([{**REGISTER, "train": "refinements"}], model=model)
    assert train(config, tmp_path) == "finished"
    refinement = parts(averaged(load_state(tmp_path, "last"))[0])[-1]
    images = torch.rand(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        assert refinement(*images).displacement_BDx.abs().max() > 0
    with pytest.raises(ValidationError, match="refine_symmetric"):
        make_config([{**REGISTER, "loss": {"dice": 1.0, "refinement": 0.1}}], model=model)

"""The loop: it learns, resumes bit for bit, shares work between processes, stops in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from carl_cli.errors import UsageError
from carl_cli.training.config import TrainConfig, model_at
from carl_cli.training.loop import train
from carl_cli.training.run_folder import has_state, load_state
from carl_cli.training.stage import DivergedError
from carl_cli.training.start import averaged, parts
from tests.training.conftest import TINY_MODEL

MATCH = {
    "kind": "correspondence",
    "loss": {"attention": 0.3, "position": 1.0, "same_label": 0.3, "queries": 100},
}
REGISTER = {
    "loss": {"similarity": 1.0, "sigma": 2, "dice": 1.0, "field": 0.5, "regularity": 0.5},
    "batch_norm": "frozen",
}
# Terms without draws of their own: the same sum however the pairs are shared out.
PLAIN = {
    "loss": {
        "similarity": 1.0,
        "sigma": 2,
        "similar_contrasts": ("same", "near", "unrelated"),
        "field": 0.5,
        "regularity": 0.5,
        "regulariser": "diffusion",
    },
    "batch_norm": "frozen",
}


def records(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return bool(a == b)


def without_config(state: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != "config"}


def worker(
    config: TrainConfig, folder: Path, *flags: str, processes: int = 1
) -> subprocess.Popen[bytes]:
    """`carl train` (with torchrun for several processes) on this config."""
    path = folder / "config.toml"
    tables = config.model_dump(mode="json", exclude_none=True)
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in tables.items()))
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    script = Path(__file__).with_name("worker.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launch, str(script), str(path), "-o", str(folder / "run"), *flags],
        env=environment,
        stderr=subprocess.PIPE,
    )


def toml(value: Any) -> str:
    """As an inline value: TOML's tables in one line are JSON's with = for the colon."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def finish(process: subprocess.Popen[bytes]) -> int:
    _, errors = process.communicate(timeout=240)
    if process.returncode not in (0, 75):
        raise AssertionError(errors.decode()[-3000:])
    return process.returncode


@pytest.mark.parametrize("stage", [MATCH, REGISTER], ids=["correspondence", "registration"])
def test_thirty_steps_lower_the_loss(
    stage: dict[str, Any], make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    # One kind of pair, so that the losses of single steps can be compared.
    data = {"kind": "synthetic", "synthesis": {"same_map_fraction": 1.0, "reuse": 1000}}
    data["synthesis"] |= {"contrast_weights": (1, 0, 0), "degradation": 0.2}
    config = make_config([{**stage, "steps": 30, "learning_rate": 5e-3}], data=data)
    assert train(config, tmp_path) == "finished"
    losses = [record["loss"] for record in records(tmp_path)]
    assert len(losses) == 30
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_resume_after_kill_9_gives_the_same_bits(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    keeping = {"validation_pairs": 1, "validate_steps": 4, "checkpoint_seconds": 0}
    stages = [{**MATCH, "steps": 5}, {**REGISTER, "steps": 9}]
    config = make_config(stages, keeping=keeping)
    straight = tmp_path / "straight"
    train(config, straight)

    process = worker(config, tmp_path)
    run = tmp_path / "run"
    deadline = time.monotonic() + 200
    while not (run / "log.jsonl").is_file() or line_count(run) < 9:
        assert process.poll() is None, process.communicate()[1].decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = load_state(run, "last")["at"]["total"]
    assert 5 <= killed_at < 14

    assert train(config, run, resume=True) == "finished"
    a, b = (load_state(folder, "last") for folder in (straight, run))
    assert same_bits(a, b)
    assert same_bits(load_state(straight, "best"), load_state(run, "best"))
    kept = [[{**r, "seconds": 0} for r in records(folder)] for folder in (straight, run)]
    assert kept[0] == kept[1]


def line_count(out: Path) -> int:
    return len((out / "log.jsonl").read_text().splitlines())


def test_two_processes_learn_what_one_learns_from_both_batches(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    process = worker(make_config([{**PLAIN, "batch": 1}]), tmp_path, processes=2)
    alone, accumulated = tmp_path / "alone", tmp_path / "accumulated"
    train(make_config([{**PLAIN, "batch": 2}]), alone)
    train(make_config([{**PLAIN, "batch": 1, "accumulate": 2}]), accumulated)
    assert finish(process) == 0
    expected = load_state(alone, "last")["average"]
    for other in (tmp_path / "run", accumulated):
        found = load_state(other, "last")["average"]
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)


def test_sigterm_saves_and_asks_to_be_queued_again(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config([{**MATCH, "steps": 100_000}])
    process = worker(config, tmp_path)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 200
    while not log.is_file() or not log.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 75
    saved = load_state(tmp_path / "run", "last")["at"]
    assert saved["total"] == records(tmp_path / "run")[-1]["step"] > 0


def test_a_time_limit_asks_to_be_queued_again_too(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config([{**MATCH, "steps": 100_000}])
    assert finish(worker(config, tmp_path, "--max-seconds", "1")) == 75
    assert load_state(tmp_path / "run", "last")["at"]["total"] > 0


def test_a_time_limit_cuts_a_run_in_pieces_with_the_same_end(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config([{**MATCH, "steps": 2}, {**REGISTER, "steps": 2}])
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    train(config, whole)
    outcomes = [train(config, pieces, resume=True, max_seconds=0) for _ in range(4)]
    assert outcomes == ["time"] * 4  # one step each
    assert train(config, pieces, resume=True) == "finished"
    assert same_bits(load_state(whole, "last"), load_state(pieces, "last"))


def test_a_finished_run_is_not_overwritten(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config([{**MATCH, "steps": 1}])
    train(config, tmp_path)
    before = load_state(tmp_path, "last")
    with pytest.raises(UsageError, match="holds a run"):
        train(config, tmp_path)
    assert train(config, tmp_path, resume=True) == "finished"
    assert same_bits(before, load_state(tmp_path, "last"))
    other = config.model_copy(
        update={"model": config.model.model_copy(update={"coordinates": "corners"})}
    )
    with pytest.raises(UsageError, match="another model"):
        train(other, tmp_path, resume=True)


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


def test_a_run_starts_from_the_weights_of_another(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(make_config([{**MATCH, "steps": 2}]), first)
    slow = {**REGISTER, "steps": 1, "learning_rate": 1e-12}
    train(make_config([slow], initial=first, initial_part="coarse"), second)
    a, b = (load_state(folder, "last")["average"] for folder in (first, second))
    for name in (k for k in a if "encoder" in k):
        torch.testing.assert_close(a[name], b[name])


def test_divergence_is_said(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = make_config([{**MATCH, "steps": 60, "learning_rate": 1e30}])
    with pytest.raises(DivergedError, match="finite gradient"):
        train(config, tmp_path)
    assert not has_state(tmp_path, "last")


def test_checkpoints_hold_plain_data_only(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config([{**MATCH, "steps": 1}])
    train(config, tmp_path)
    state = load_state(tmp_path, "last")  # weights_only: nothing in it can run code
    assert TrainConfig.model_validate(state["config"]) == config

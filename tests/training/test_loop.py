"""The loop: it learns, resumes bit for bit, shares work between processes, stops in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from carl_cli.errors import DivergedError, UsageError
from carl_cli.training.config import TrainConfig
from carl_cli.training.loop import train
from carl_cli.training.run_folder import has_state, load_state

MATCH = {
    "kind": "correspondence",
    "loss": {"attention": 0.3, "position": 1.0, "same_label": 0.3, "queries": 100},
}
REGISTER = {
    "loss": {"similarity": 0.5, "sigma": 2, "dice": 1.0, "field": 0.5, "regularity": 0.5},
    "batch_norm": "frozen",
}
# Terms without draws of their own: the same sum however the pairs are shared out.
PLAIN = {
    "loss": {
        "similarity": 0.5,
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
    write_config(config, path)
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


def write_config(config: TrainConfig, path: Path) -> None:
    tables = config.model_dump(mode="json", exclude_none=True)
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in tables.items()))


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
    with pytest.raises(UsageError, match=r"model\.coordinates = centres, the config says corners"):
        train(other, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"seed": 5}, "seed = 0, the config says 5"),
        ({"stages": {"steps": 4}}, "stages.0.steps = 1"),
        ({"stages": {"loss": {"similarity": 1.0, "regularity": 150.0}}}, "stages.0.loss"),
        ({"keeping": {"average_decay": 0.5}}, "average_decay"),
    ],
)
def test_another_experiment_is_not_resumed(
    change: dict[str, Any],
    place: str,
    make_config: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    stage = {**MATCH, "steps": 1}
    train(make_config([stage]), tmp_path)
    stages = [stage | change.pop("stages", {})]
    with pytest.raises(UsageError, match=place):
        train(make_config(stages, **change), tmp_path, resume=True)


def test_how_it_runs_may_change(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    stage = {**MATCH, "steps": 2}
    train(make_config([stage]), tmp_path, max_seconds=0)
    keeping = {"checkpoint_seconds": 7, "validation_pairs": 0, "average_decay": 0.9}
    other = make_config([stage], keeping=keeping, runtime={"device": "cpu", "prefetch": True})
    assert train(other, tmp_path, resume=True) == "finished"


def test_a_run_starts_from_the_weights_of_another(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(make_config([{**MATCH, "steps": 2}]), first)
    slow = {**REGISTER, "steps": 1, "learning_rate": 1e-12}
    train(make_config([slow], initial=str(first), initial_part="coarse"), second)
    a, b = (load_state(folder, "last")["average"] for folder in (first, second))
    for name in (k for k in a if "encoder" in k):
        torch.testing.assert_close(a[name], b[name])


def test_divergence_is_said(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = make_config([{**MATCH, "steps": 60, "learning_rate": 1e30}])
    with pytest.raises(DivergedError, match="finite gradient") as told:
        train(config, tmp_path)
    assert told.value.exit_code == 9
    assert told.value.hint == "lower the learning rate, or set clip_norm"
    assert not has_state(tmp_path, "last")


def test_checkpoints_hold_plain_data_only(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config([{**MATCH, "steps": 1}])
    train(config, tmp_path)
    state = load_state(tmp_path, "last")  # weights_only: nothing in it can run code
    assert TrainConfig.model_validate(state["config"]) == config

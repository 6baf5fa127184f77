"""States on disk: parts, damage, interruption; averages and schedules in closed form."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from carl_cli.errors import InputError, OutputError
from carl_cli.training import run_folder as checkpoint
from carl_cli.training.config import TrainConfig
from carl_cli.training.optimiser import MovingAverage, learning_rate
from carl_cli.training.run_folder import MIB, Journal, has_state, load_state, save_state


def state(seed: int) -> dict[str, object]:
    values = torch.randn(2 * MIB // 4 * 3 // 2, generator=torch.Generator().manual_seed(seed))
    return {"values": values, "at": {"step": seed}}


def test_a_state_in_parts_comes_back_whole(tmp_path: Path) -> None:
    save_state(tmp_path, "last", state(1), part_mib=1)
    parts = sorted(tmp_path.glob("last-*"))
    assert [p.stat().st_size <= MIB for p in parts] == [True] * 4
    again = load_state(tmp_path, "last")
    assert again["at"] == {"step": 1}
    assert torch.equal(again["values"], state(1)["values"])  # type: ignore[arg-type]


def test_only_the_files_of_the_newest_state_stay(tmp_path: Path) -> None:
    save_state(tmp_path, "best", state(7))
    for seed in (1, 2):
        save_state(tmp_path, "last", state(seed), part_mib=1)
    listed = {p["file"] for p in json.loads((tmp_path / "last.json").read_text())["parts"]}
    assert {p.name for p in tmp_path.glob("last-*")} == listed
    assert load_state(tmp_path, "best")["at"] == {"step": 7}


def test_a_write_that_fails_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, "last", state(1), part_mib=1)
    write, calls = checkpoint._write_part, []

    def full_disk(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise OutputError("no space left")
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "_write_part", full_disk)
    with pytest.raises(OutputError):
        save_state(tmp_path, "last", state(2), part_mib=1)
    assert load_state(tmp_path, "last")["at"] == {"step": 1}


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_damage_is_an_input_error(tmp_path: Path, how: str) -> None:
    save_state(tmp_path, "last", state(1), part_mib=1)
    part = sorted(tmp_path.glob("last-*"))[1]
    if how == "flipped":
        block = bytearray(part.read_bytes())
        block[1000] ^= 1
        part.write_bytes(block)
    else:
        part.unlink()
    with pytest.raises(InputError, match=part.name):
        load_state(tmp_path, "last")
    assert not has_state(tmp_path, "best")


def test_the_average_is_the_recursion_and_leaves_the_network_alone() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = MovingAverage(network, decay=0.5)
    expected = network[0].weight.item()
    for n, value in enumerate((1.0, 2.0, 3.0)):
        nn.init.constant_(network[0].weight, value)
        average.update(network)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    network.train()
    with average.in_place_of(network):
        assert network[0].weight.item() == pytest.approx(expected)
        assert not network[1].training
    assert network[0].weight.item() == 3.0
    assert network[1].training


def test_learning_rates(make_config: Callable[..., TrainConfig]) -> None:
    shared = {"steps": 101, "learning_rate": 2.0, "loss": {"dice": 1.0}}
    config = make_config([shared, {**shared, "schedule": "cosine"}, {**shared, "warmup_steps": 9}])
    flat, cosine, warm = config.stages
    assert [learning_rate(flat, k) for k in (0, 50, 100)] == [2.0, 2.0, 2.0]
    assert learning_rate(cosine, 0) == pytest.approx(2.0)
    assert learning_rate(cosine, 50) == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert learning_rate(cosine, 100) == pytest.approx(0.02)
    assert [learning_rate(warm, k) for k in (0, 4, 9, 50)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert math.isclose(learning_rate(cosine, 25), 2 * (0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2))


def test_the_journal_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    with Journal(tmp_path, 0) as journal:
        for step in (1, 2, 3):
            journal.write("train", step, loss=step / 2)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # cut short by a kill
    with Journal(tmp_path, 2) as journal:
        journal.write("train", 3, loss=9.0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 9.0)]


def test_tensorboard_shows_what_the_journal_holds(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Journal(tmp_path, 0, tensorboard=True) as journal:
        for step in (1, 2, 3):
            journal.write("train", step, stage="one", loss=step / 2)
    with Journal(tmp_path, 2, tensorboard=True) as journal:  # killed after step 3, saved at 2
        journal.write("train", 3, stage="one", loss=9.0)
        journal.write("validation", 3, stage="one", dice=0.75)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["train/loss", "validation/dice"]
    loss = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert loss == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert [(e.step, e.value) for e in events.Scalars("validation/dice")] == [(3, 0.75)]

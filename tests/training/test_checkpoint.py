"""States on disk: damage, interruption; averages and schedules in closed form."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from carl_cli.errors import InputError, OutputError
from carl_cli.training import run_folder
from carl_cli.training.config import TrainConfig
from carl_cli.training.optimiser import averaged_model, scheduler
from carl_cli.training.run_folder import Journal, has_state, load_state, save_state
from carl_cli.training.tables import StageConfig


def state(seed: int) -> dict[str, object]:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
    return {"values": values, "at": {"step": seed}}


def test_a_state_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path, "last", state(1))
    again = load_state(tmp_path, "last")
    assert again["at"] == {"step": 1}
    assert torch.equal(again["values"], state(1)["values"])  # type: ignore[arg-type]


def test_only_the_file_of_the_newest_state_stays(tmp_path: Path) -> None:
    save_state(tmp_path, "best", state(7))
    for seed in (1, 2):
        save_state(tmp_path, "last", state(seed))
    named = json.loads((tmp_path / "last.json").read_text())["file"]
    assert [p.name for p in tmp_path.glob("last-*")] == [named]
    assert load_state(tmp_path, "best")["at"] == {"step": 7}


def test_a_write_that_fails_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, "last", state(1))

    @contextmanager
    def full_disk(_path: Path) -> Iterator[Path]:
        raise OutputError("no space left")
        yield _path

    monkeypatch.setattr(run_folder, "atomic_path", full_disk)
    with pytest.raises(OutputError):
        save_state(tmp_path, "last", state(2))
    assert load_state(tmp_path, "last")["at"] == {"step": 1}


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_damage_is_an_input_error(tmp_path: Path, how: str) -> None:
    save_state(tmp_path, "last", state(1))
    (file,) = tmp_path.glob("last-*")
    if how == "flipped":
        block = bytearray(file.read_bytes())
        block[1000] ^= 1
        file.write_bytes(block)
    else:
        file.unlink()
    with pytest.raises(InputError, match=file.name):
        load_state(tmp_path, "last")
    assert not has_state(tmp_path, "best")


def test_the_average_is_the_recursion_and_leaves_the_network_alone() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)).train()
    average = averaged_model(network, decay=0.5)
    values = (1.0, 2.0, 3.0)
    expected = values[0]  # the start is forgotten at the first step
    for n, value in enumerate(values):
        nn.init.constant_(network[0].weight, value)
        network[1].running_mean.fill_(value)
        average.update_parameters(network)
        if n:
            decay = min(0.5, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * value
    assert average.module[0].weight.item() == pytest.approx(expected)
    assert average.module[1].running_mean.item() == pytest.approx(expected)
    assert not average.module[1].training
    assert network[0].weight.item() == 3.0
    assert network[1].training


def rates(stage: StageConfig, steps: int) -> list[float]:
    """The learning rate of each step."""
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=stage.learning_rate)
    plan, found = scheduler(optimiser, stage), []
    for _ in range(steps):
        found.append(plan.get_last_lr()[0])
        optimiser.step()
        plan.step()
    return found


def test_learning_rates(make_config: Callable[..., TrainConfig]) -> None:
    shared = {"steps": 101, "learning_rate": 2.0, "loss": {"dice": 1.0}}
    config = make_config([shared, {**shared, "schedule": "cosine"}, {**shared, "warmup_steps": 9}])
    flat, cosine, warm = (rates(stage, 101) for stage in config.stages)
    assert flat == [2.0] * 101
    assert cosine[0] == pytest.approx(2.0)
    assert cosine[25] == pytest.approx(2 * (0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2))
    assert cosine[50] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert cosine[100] == pytest.approx(0.02)
    assert [warm[k] for k in (0, 4, 9, 50)] == pytest.approx([0.2, 1.0, 2.0, 2.0])


def test_a_cosine_begins_after_the_warm_up(make_config: Callable[..., TrainConfig]) -> None:
    shared = {"steps": 111, "learning_rate": 2.0, "loss": {"dice": 1.0}, "schedule": "cosine"}
    (stage,) = make_config([{**shared, "warmup_steps": 10}]).stages
    (plain,) = make_config([{**shared, "steps": 101}]).stages
    assert rates(stage, 111)[10:] == pytest.approx(rates(plain, 101))


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

"""Reading and writing beside the network, with stand-ins for the three steps of a case."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from carl_cli.batch import pipeline
from carl_cli.batch.job import Job, Outcome
from carl_cli.batch.pipeline import run_jobs
from carl_cli.errors import InputError
from carl_cli.registration.register import RegistrationOptions
from carl_cli.weights.folder import Weights
from carl_cli.workflows.request import CaseInputs, CaseOutputs, RunSettings

STEP_S = 0.02
PATIENCE_S = 60.0
WEIGHTS = cast(Weights, None)


class Data:
    """What a case holds in memory."""

    def __init__(self, name: str) -> None:
        self.name = name


class Lane:
    """Stand-ins that note when they begin and end, and what is alive meanwhile.

    awaited: a step does not end before these events.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.threads: dict[str, set[str]] = {}
        self.most_alive = 0
        self.broken: dict[str, Exception] = {}
        self.awaited: dict[str, tuple[str, ...]] = {}
        self.room = True
        self._alive: weakref.WeakSet[Data] = weakref.WeakSet()

    def read(self, inputs: CaseInputs, options: object) -> Data:
        data = Data(inputs.fixed.name)
        self._alive.add(data)
        return self._step("read", data)

    def compute(self, data: Data, weights: object) -> Data:
        return self._step("compute", data)

    def write(self, data: Data, outputs: object, settings: object) -> None:
        self._step("write", data)

    def _step(self, kind: str, data: Data) -> Data:
        step = f"{kind} {data.name}"
        self.most_alive = max(self.most_alive, len(self._alive))
        self.threads.setdefault(kind, set()).add(threading.current_thread().name)
        self.events.append(step)
        time.sleep(STEP_S)
        self._wait_for(self.awaited.get(step, ()))
        self.events.append(f"{step} ended")
        if step in self.broken:
            raise self.broken[step]
        return data

    def _wait_for(self, steps: tuple[str, ...]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not set(steps) <= set(self.events):
            assert time.monotonic() < end, f"{steps} did not take place meanwhile"
            time.sleep(0.005)


class Told:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.outcomes: dict[str, Outcome] = {}

    def started(self, job: Job) -> None:
        self.begun.append(job.name)

    def finished(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.name] = outcome


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Lane:
    lane = Lane()
    monkeypatch.setattr(pipeline, "check_room", lambda *_: None)
    monkeypatch.setattr(pipeline, "room_for_both", lambda *_: lane.room)
    monkeypatch.setattr(pipeline, "load_case", lane.read)
    monkeypatch.setattr(pipeline, "compute_case", lane.compute)
    monkeypatch.setattr(pipeline, "deliver_case", lane.write)
    return lane


def jobs(folder: Path, names: str) -> Iterator[Job]:
    for line, name in enumerate(names, 2):
        inputs = CaseInputs(Path(name), Path(name))
        outputs = CaseOutputs(json=folder / name / "record.json")
        yield Job(name, line, inputs, outputs, RegistrationOptions(), RunSettings())


def test_files_are_read_and_written_while_the_network_is_busy(lane: Lane, tmp_path: Path) -> None:
    for last, this, following in ("abc", "bcd", "cde"):
        lane.awaited[f"compute {this}"] = (f"write {last} ended", f"read {following} ended")
        lane.awaited[f"write {last}"] = (f"compute {this}",)
    told = Told()
    run_jobs(jobs(tmp_path, "abcde"), WEIGHTS, told)
    assert told.begun == list("abcde")
    assert {name: outcome.error for name, outcome in told.outcomes.items()} == dict.fromkeys(
        "abcde", ""
    )
    assert lane.most_alive == 2
    assert lane.threads["read"] == lane.threads["write"] == {"files_0"}
    assert lane.threads["compute"] == {threading.main_thread().name}


def test_where_two_cases_do_not_fit_there_is_one(lane: Lane, tmp_path: Path) -> None:
    lane.room = False
    run_jobs(jobs(tmp_path, "abc"), WEIGHTS, Told())
    steps = [f"{step} {name}" for name in "abc" for step in ("read", "compute", "write")]
    assert lane.events == [event for step in steps for event in (step, f"{step} ended")]
    assert lane.most_alive == 1


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_what_fails_is_told_and_the_others_go_on(lane: Lane, tmp_path: Path, step: str) -> None:
    lane.broken[f"{step} b"] = InputError("b is bad", "mend it")
    told = Told()
    run_jobs(jobs(tmp_path, "abc"), WEIGHTS, told)
    assert {n: o.error for n, o in told.outcomes.items()} == {
        "a": "",
        "b": "b is bad (mend it)",
        "c": "",
    }
    steps = ["read", "compute", "write"]
    reached = {event.split()[0] for event in lane.events if event.split()[1] == "b"}
    assert reached == set(steps[: steps.index(step) + 1])
    spent = STEP_S * len(reached)
    assert spent <= told.outcomes["b"].seconds < spent + 1


def test_a_watcher_that_fails_ends_the_run(lane: Lane, tmp_path: Path) -> None:
    """A status table that can't be written is no affair of a case."""

    class Broken(Told):
        def finished(self, job: Job, outcome: Outcome) -> None:
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        run_jobs(jobs(tmp_path, "abcd"), WEIGHTS, Broken())
    assert "compute d" not in lane.events


def test_an_interruption_finishes_what_is_being_written(
    lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    original = pipeline.compute_case

    def interrupted(data: Any, weights: Weights) -> Any:
        if data.name == "b":
            raise KeyboardInterrupt
        return original(data, weights)

    monkeypatch.setattr(pipeline, "compute_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs(tmp_path, "abc"), WEIGHTS, told)
    assert "write a ended" in lane.events
    assert list(told.outcomes) == ["a"]

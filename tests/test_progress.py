"""Seconds by stage, by a clock that the test turns."""

from __future__ import annotations

import time

import pytest

from carl_cli.progress import Stopwatch


def test_stages_are_timed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    told: list[tuple[str, float]] = []
    watch = Stopwatch(lambda name, part, *_: told.append((name, part)))
    for name, seconds in (("network", 2.5), ("writing", 0.25), ("network", 1.5)):
        with watch.stage(name):
            clock[0] += seconds
    assert watch.seconds == {"network": 4.0, "writing": 0.25}
    assert told[:4] == [("network", 0.0), ("network", 1.0), ("writing", 0.0), ("writing", 1.0)]


def test_a_stage_that_fails_is_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch.stage("network"):
        raise ValueError("no")
    assert watch.seconds == {}

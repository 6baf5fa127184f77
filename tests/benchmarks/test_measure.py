"""The cost of a process counts what it starts."""

from __future__ import annotations

import sys

import pytest

from benchmarks.measure import process_cost

FILL = "import time; x = bytearray(b'1') * (150 << 20); time.sleep(0.4)"
TWO = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {FILL!r}]); {FILL}"
TWO += "; p.wait()"


@pytest.mark.skipif(sys.platform != "linux", reason="the tree of processes is read from /proc")
def test_memory_of_a_process_and_its_child_is_added() -> None:
    """Twice 150 MiB and two interpreters of some 10 MiB, which live at the same time."""
    assert 300 < process_cost([sys.executable, "-c", TWO]).peak_mib < 400
    assert 150 < process_cost([sys.executable, "-c", FILL]).peak_mib < 200


def test_seconds_are_those_of_the_process() -> None:
    cost = process_cost([sys.executable, "-c", "import time; time.sleep(0.5)"])
    assert cost.seconds >= 0.5
    assert cost.cpu_seconds < 0.5


def test_a_failure_ends_the_benchmark_with_its_last_words() -> None:
    with pytest.raises(SystemExit, match="no such contender"):
        process_cost([sys.executable, "-c", "raise ValueError('no such contender')"])

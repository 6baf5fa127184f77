"""`carl train --processes`: stopped and queued again, with the bits of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carl_cli.training.distributed import _joint_code
from carl_cli.training.run_folder import load_state
from tests.training.test_loop import same_bits

CONFIG = """
name = "pieces"
[model]
coarse_scale = 2
refine_scales = [1]
encoder = { width = 4, blocks = 1, padding = 1 }
unet = { down = [4], up = [4] }
[runtime]
device = "cpu"
[keeping]
validation_pairs = 0
checkpoint_seconds = 1e9
[data]
kind = "synthetic"
synthesis = { reuse = 1000 }
[[stages]]
name = "one"
steps = 60
shape_zyx = [16, 16, 16]
warmup_steps = 5
schedule = "cosine"
loss = { attention = 1.0, queries = 50, similarity = 1.0, sigma = 2, regularity = 0.5 }
"""


def started(config: Path, run: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "carl_cli.cli.app", "train", str(config), "--out", str(run)]
    words = ("--processes", "2", "--threads", "2", *words)
    return subprocess.Popen([*command, *words], stderr=subprocess.PIPE, env={**os.environ})


def code_of(process: subprocess.Popen[bytes]) -> int:
    _, errors = process.communicate(timeout=280)
    assert process.returncode in (0, 75), errors.decode()[-3000:]
    return process.returncode


def test_two_processes_are_preempted_and_end_with_the_same_bits(tmp_path: Path) -> None:
    config = tmp_path / "pieces.toml"
    config.write_text(CONFIG)
    straight, pieces = tmp_path / "straight", tmp_path / "pieces"
    assert code_of(started(config, straight)) == 0

    process = started(config, pieces)
    log, deadline = pieces / "log.jsonl", time.monotonic() + 200
    while not log.is_file() or len(log.read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()[1].decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert code_of(process) == 75
    assert 3 <= load_state(pieces, "last")["at"]["step"] < 60
    assert code_of(started(config, pieces, "--resume")) == 0
    assert same_bits(*(load_state(run, "last") for run in (straight, pieces)))


@pytest.mark.parametrize(
    ("codes", "joint"), [((0, 0), 0), ((75, 75), 75), ((0, 75), 75), ((3, 0), 3), ((-9, 0), 137)]
)
def test_the_code_of_all(codes: tuple[int, ...], joint: int) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", f"import os; os.kill(os.getpid(), {-code})"])
        if code < 0
        else subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
        for code in codes
    ]
    assert _joint_code(children) == joint

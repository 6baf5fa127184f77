"""Which worker computes where: no two cases on one GPU unless that was asked for."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from carl_cli.errors import UsageError
from carl_cli.model import devices
from carl_cli.model.devices import chosen_device, worker_devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_each_worker_has_a_gpu_of_its_own(two_gpus: None) -> None:
    device = chosen_device("auto")
    assert worker_devices(device, 1) == ["cuda"]
    assert worker_devices(device, 2) == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(("device", "workers"), [("cuda", 3), ("cuda:1", 2), ("mps", 2)])
def test_more_workers_than_gpus_have_to_be_asked_for(
    two_gpus: None, device: str, workers: int
) -> None:
    with pytest.raises(UsageError, match=f"--workers {workers} on") as refused:
        worker_devices(device, workers)
    assert "--share-gpu" in refused.value.hint
    shared = worker_devices(device, workers, share=True)
    assert shared == {"cuda": ["cuda:0", "cuda:1", "cuda:0"]}.get(device, [device] * workers)


def test_apples_gpu_is_taken_only_where_it_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here there is none, so what torch says of it is made up: the probe finds that out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(logging.getLogger("carl_cli"), "propagate", True)
    devices._mps_answers.cache_clear()
    assert chosen_device("auto") == "cpu"
    assert "lacks what networks need on Apple's GPU" in caplog.text
    devices._mps_answers.cache_clear()


@pytest.mark.parametrize("name", ["cuda:" + "9" * 5000, "cuda:²", "cuda:-1", "cuda:", "gpu", ""])
def test_names_of_no_device(name: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        chosen_device(name)


def test_the_cpu_is_shared_and_no_workers_are_refused() -> None:
    assert worker_devices("cpu", 3) == ["cpu"] * 3
    with pytest.raises(UsageError, match="--workers 0"):
        worker_devices("cpu", 0)


@pytest.mark.gpu
@pytest.mark.parametrize(("visible", "expected"), [("0", "1 cuda"), ("", "0 cpu")])
def test_cuda_visible_devices_decides_what_there_is(visible: str, expected: str) -> None:
    script = (
        "import torch\nfrom carl_cli.model.devices import chosen_device\n"
        "print(torch.cuda.device_count(), chosen_device('auto'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected

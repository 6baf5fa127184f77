"""Same seed, same bytes: for any number of threads on a CPU, by settings on a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from carl_cli.devices import set_deterministic

from .runner import Server

SECONDS = 300.0


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--init", "affine"), ("--io", "--io-steps", 2)])
def test_threads_do_not_change_the_bytes(
    heavy: Server,
    weights: Path,
    sound_pair: tuple[Path, Path],
    tmp_path: Path,
    options: tuple[object, ...],
) -> None:
    """Transform, inverse, image, Jacobian determinant, confidence, of 1 and of 2 threads."""
    written = {}
    for threads in (1, 2):
        out = tmp_path / str(threads)
        out.mkdir()
        call = [
            "register", *sound_pair, "--weights", weights, "--threads", threads,
            "-o", out / "t.h5", "-O", out / "i.nii.gz", "-w", out / "w.nii.gz",
            "--jacobian", out / "j.mha", "--confidence", out / "c.mha", *options,
        ]  # fmt: skip
        ended = heavy.run(call, tmp_path, SECONDS, None)
        assert ended.code == 0, ended.err
        written[threads] = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(written[1]) == 5
    assert written[1] == written[2]


def test_what_deterministic_asks_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings; no GPU is needed to look at them."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.backends.cudnn.benchmark is False
    finally:
        set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()

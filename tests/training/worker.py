"""One process of a training: worker.py CONFIG.json OUT [--resume]; exits as `carl train`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from carl_cli.training.config import TrainConfig
from carl_cli.training.distributed import UNFINISHED
from carl_cli.training.loop import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
    outcome = train(config, Path(sys.argv[2]), resume="--resume" in sys.argv)
    assert "SimpleITK" not in sys.modules, "training must run where it is not installed"
    sys.exit(0 if outcome == "finished" else UNFINISHED)

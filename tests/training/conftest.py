"""A training so small that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.training.config import TrainConfig
from carl_cli.training.tables import ImageData

TINY_MODEL: dict[str, Any] = {
    "coarse_scale": 2,
    "refine_scales": (1,),
    "coordinates": "centres",
    "encoder": {"width": 8, "blocks": 1, "padding": 2},
    "unet": {"down": (4, 8), "up": (4, 8)},
}
QUIET_KEEPING = {"validation_pairs": 0, "average_decay": 0.9, "checkpoint_seconds": 1e9}
RULE = {"grid_rule": "stretch", "shape_zyx": (16, 16, 16)}  # for images in files
EASY = {"rotation_degrees": 5.0, "crop_fraction": 0.0, "slab_fraction": 0.0, "reuse": 64}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_config() -> Callable[..., TrainConfig]:
    """make_config([stage tables], **changes): random shapes at 16³ and a tiny network."""

    def build(stages: list[dict[str, Any]], **changes: Any) -> TrainConfig:
        common = {"name": "s", "shape_zyx": (16, 16, 16), "steps": 3, "learning_rate": 2e-3}
        tables = {
            "name": "tiny",
            "model": TINY_MODEL,
            "data": {"kind": "synthetic", "synthesis": EASY},
            "keeping": QUIET_KEEPING,
            "runtime": {"device": "cpu", "bfloat16": False, "prefetch": False},
            "stages": [{**common, **stage} for stage in stages],
        }
        return TrainConfig.model_validate({**tables, **changes})

    return build


@pytest.fixture
def folder(tmp_path: Path, grids: dict[str, Grid], make_image: Callable[..., Image]) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("plain", "oblique", "flipped"):
        write_image(images / f"{name}.nii.gz", make_image(grids[name]))
    return images


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> ImageData:
    return images_data(images=folder, cache=tmp_path / "cache")


def images_data(**values: Any) -> ImageData:
    return ImageData.model_validate({"kind": "images", "cache": "unused", **values})

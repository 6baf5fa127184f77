"""A small phantom pair as files, small networks, and `carl register` run on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from carl_cli.cli.app import main
from carl_cli.io.images.files import write_image
from carl_cli.model.coarse import coarse_network
from carl_cli.model.network import ModelConfig, UNetConfig, build_network
from carl_cli.preprocessing.pair import PreprocessRule
from carl_cli.weights.folder import WeightsConfig, save_weights
from carl_cli.workflows.phantom import make_phantom
from tests.batch.conftest import batch_weights, study  # noqa: F401 (fixtures)
from tests.cli.conftest import carl  # noqa: F401 (a fixture)
from tests.cli.weights_folder import untrained_weights


class PairFiles(NamedTuple):
    """fixed: upright, thick slices. moving: permuted, flipped, tilted, another field of view."""

    fixed: Path
    moving: Path
    fixed_seg: Path
    moving_seg: Path
    fixed_points: Path
    moving_points: Path


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairFiles:
    folder = tmp_path_factory.mktemp("pair")
    phantom = make_phantom(seed=1, voxel_mm=9.0, points=12)
    names = [*(f"{name}.nii.gz" for name in PairFiles._fields[:4]), "fixed.csv", "moving.csv"]
    files = PairFiles(*(folder / name for name in names))
    images = (phantom.fixed, phantom.moving, phantom.fixed_labels, phantom.moving_labels)
    for path, image in zip(files[:4], images, strict=True):
        write_image(path, image)
    for path, points in zip(files[4:], (phantom.fixed_points, phantom.moving_points), strict=True):
        np.savetxt(path, points, delimiter=",", header="x,y,z", comments="", fmt="%.6f")
    return files


def _unet_weights(folder: Path, name: str, strength: float) -> Path:
    """A coarse U-Net alone: smooth maps that depend on both images; strength 0: the identity."""
    torch.manual_seed(3)
    model = ModelConfig(
        coarse="unet",
        coarse_scale=4,
        refine_scales=(),
        unet=UNetConfig(down=(4, 8), up=(4, 8)),
        coordinates="centres",
    )
    network = build_network(model)
    last = coarse_network(network).last
    torch.nn.init.normal_(last.weight, std=strength)
    rule = PreprocessRule(grid_rule="physical", max_voxels=32**3, multiple_of=16)
    save_weights(folder, network, WeightsConfig(name=name, model=model, preprocess=rule), "test")
    return folder


@pytest.fixture(scope="session")
def smooth_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _unet_weights(tmp_path_factory.mktemp("smooth"), "smooth", 0.05)


@pytest.fixture(scope="session")
def folding_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map with folds here and there."""
    return _unet_weights(tmp_path_factory.mktemp("folding"), "folding", 0.4)


@pytest.fixture(scope="session")
def identity_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _unet_weights(tmp_path_factory.mktemp("identity"), "identity", 0.0)


@pytest.fixture(scope="session")
def attention_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained attention: a wild map, with folds."""
    return untrained_weights(tmp_path_factory.mktemp("attention"))


Register = Callable[..., None]


@pytest.fixture(scope="session")
def register(pair: PairFiles) -> Register:
    """`carl register` of the pair in this process; it must succeed."""

    def run(weights: Path, *options: object) -> None:
        args = [pair.fixed, pair.moving, "--weights", weights, "--threads", 1, "-q", *options]
        with pytest.raises(SystemExit) as stop:
            main(["register", *map(str, args)])
        assert stop.value.code == 0

    return run

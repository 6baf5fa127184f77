"""A server that has imported torch too, a small pair, small weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.weights_folder import untrained_weights
from tests.faults.runner import Server
from tests.faults.samples import phantom_pair


@pytest.fixture(scope="session")
def heavy() -> Iterator[Server]:
    with Server(heavy=True) as running:
        yield running


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_weights(tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="session")
def sound_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return phantom_pair(tmp_path_factory.mktemp("sound"))

"""Same seed, same bytes; instance optimisation leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from carl_cli.io.images.files import Image, read_image
from carl_cli.registration.instance import InstanceOptions
from carl_cli.registration.register import RegistrationOptions, register
from carl_cli.transforms import DisplacementField
from carl_cli.weights.folder import Weights, load_weights
from tests.workflows.conftest import PairFiles, Register

WITH_IO = RegistrationOptions(instance=InstanceOptions(steps=3, learning_rate=1e-2, scope="all"))


@pytest.fixture
def images(pair: PairFiles) -> tuple[Image, Image]:
    return read_image(pair.fixed), read_image(pair.moving)


def displacement(
    fixed: Image, moving: Image, weights: Weights, options: RegistrationOptions | None = None
) -> np.ndarray:
    result = register(fixed, moving, weights, options or RegistrationOptions())
    field = result.forward.parts[-1]
    assert isinstance(field, DisplacementField)
    return field.displacement_mm


@pytest.mark.parametrize("kind", ["smooth_weights", "attention_weights"])
def test_one_pair_does_not_change_the_next(
    images: tuple[Image, Image], request: pytest.FixtureRequest, kind: str
) -> None:
    """A; B with instance optimisation; A again: the first and the last agree bit for bit."""
    weights = load_weights(request.getfixturevalue(kind))
    fixed, moving = images
    first = displacement(fixed, moving, weights)
    plain_b = displacement(moving, fixed, weights)
    fitted_b = displacement(moving, fixed, weights, WITH_IO)
    assert np.abs(fitted_b - plain_b).max() > 0.1
    assert displacement(fixed, moving, weights).tobytes() == first.tobytes()
    assert displacement(moving, fixed, weights, WITH_IO).tobytes() == fitted_b.tobytes()


def test_the_same_seed_gives_the_same_files(
    register: Register, smooth_weights: Path, tmp_path: Path
) -> None:
    names = ("t.h5", "i.nii.gz", "w.nrrd", "j.mha")
    seeds = {"a": 5, "b": 5, "c": 6}
    for run, seed in seeds.items():
        folder = tmp_path / run
        folder.mkdir()
        options = zip(("-o", "-O", "-w", "--jacobian"), (folder / n for n in names), strict=True)
        io = ("--io", "--io-steps", 3, "--io-lr", 0.01, "--io-scope", "all", "--seed", seed)
        register(smooth_weights, *(word for option in options for word in option), *io)
    for name in names[1:]:
        a, b, c = ((tmp_path / run / name).read_bytes() for run in seeds)
        assert a == b, name
        assert a != c, name
    a, b, c = (datasets(tmp_path / run / "t.h5") for run in seeds)
    assert a == b
    assert a != c


def datasets(path: Path) -> dict[str, bytes]:
    """What an HDF5 file holds; its own bytes carry the time of writing."""
    found: dict[str, bytes] = {}

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            values = np.asarray(item[()])
            found[name] = (values.astype("S") if values.dtype == object else values).tobytes()

    with h5py.File(path) as file:
        file.visititems(note)
    assert len(found) > 5
    return found

"""Same seed, same bytes: for any number of threads on a CPU, by settings on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from carl_cli.model.devices import set_deterministic
from carl_cli.model.fields import DisplacementMap, identity, mean
from carl_cli.model.regularity import diffusion, gradicon
from carl_cli.model.similarity import LOSSES, by_name
from tests.faults.runner import process
from tests.faults.samples import phantom_pair

SECONDS = 600.0
THREADS = (1, 2, 3, 4)
SHAPE = (30, 40, 50)
"""More voxels than torch sums with one thread (32,768)."""


def bits_by_threads(work: Callable[[], Iterable[Tensor]]) -> list[list[bytes]]:
    """What the work gives for each number of threads."""
    before = torch.get_num_threads()
    found = []
    try:
        for count in THREADS:
            torch.set_num_threads(count)
            found.append([value.detach().numpy().tobytes() for value in work()])
    finally:
        torch.set_num_threads(before)
    return found


def same(found: list[list[bytes]]) -> bool:
    return all(bits == found[0] for bits in found)


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    fixed, moving, drawn = (torch.rand(1, 1, *SHAPE, generator=random) for _ in range(3))
    return fixed, moving, drawn > 0.3


def test_threads_do_change_a_plain_mean(images: tuple[Tensor, ...]) -> None:
    """Why `carl_cli.model.fields.mean` is there, and that the tests below can fail."""
    assert not same(bits_by_threads(lambda: [image.mean() for image in images[:2]]))
    assert same(bits_by_threads(lambda: [mean(image) for image in images[:2]]))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_threads_do_not_change_a_similarity(
    images: tuple[Tensor, Tensor, Tensor], name: str, masked: bool
) -> None:
    """Nor its slope, which is what instance optimisation goes along (never that of ncc)."""
    fixed, moving, mask = images

    def work() -> list[Tensor]:
        leaf = moving.clone().requires_grad_()
        loss = by_name(name)(leaf, fixed, mask if masked else None)
        return [loss] if name == "ncc" else [loss, *torch.autograd.grad(loss, leaf)]

    assert same(bits_by_threads(work))


def test_threads_do_not_change_gradicon() -> None:
    grid = identity(SHAPE, False)
    random = torch.Generator().manual_seed(0)
    maps = [
        DisplacementMap(0.02 * torch.randn(grid.shape, generator=random), False) for _ in range(2)
    ]

    def work() -> list[Tensor]:
        drawn = torch.Generator().manual_seed(1)
        return [gradicon(*maps, SHAPE, False, drawn), diffusion(maps[0].on_grid(SHAPE), grid)]

    assert same(bits_by_threads(work))


@pytest.fixture(scope="module")
def big_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return phantom_pair(tmp_path_factory.mktemp("big"), voxel_mm=6.0)


def written(
    call: list[object], folder: Path, threads: int, options: tuple[object, ...]
) -> dict[str, bytes]:
    """Transform, inverse, image, Jacobian determinant, match spread, of a process of its own: its
    libraries learn how many threads there are as they are loaded."""
    out = folder / f"{threads}"
    out.mkdir()
    outputs = ["-o", out / "t.h5", "-O", out / "i.nii.gz", "-w", out / "w.nii.gz", "--jacobian",
               out / "j.mha", "--match-spread", out / "c.mha"]  # fmt: skip
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    told = {**dict.fromkeys(names, str(threads)), "OMP_WAIT_POLICY": "passive"}
    ended = process([*call, "--threads", threads, *outputs, *options], out, SECONDS, **told)
    assert ended.code == 0, ended.err
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(found) == 5
    return found


@pytest.mark.slow
def test_threads_do_not_change_the_bytes(big_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """With the weights of the package: forward, fitted, by its affine part."""
    call: list[object] = ["register", *big_pair]
    transforms = []
    for number, options in enumerate(((), ("--io", "--io-steps", 6), ("--affine-only",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        one, two = (written(call, folder, threads, options) for threads in (1, 2))
        assert {k: v == two[k] for k, v in one.items()} == dict.fromkeys(one, True), options
        transforms.append(one["t.h5"])
    assert len(set(transforms)) == 3  # the options did something


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

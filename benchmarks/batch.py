"""`carl batch` beside as many calls of `carl register`, on tiny pairs, in one run.

    python benchmarks/batch.py [--pairs 20] [--size 24] [--weights carl-base]

Tiny pairs cost next to nothing by themselves: what is measured is how often the imports and the
network's loading are paid for. Both write a transform, a warped image and a record for each
pair; the transforms are compared. Prints seconds by the clock and of the processor, and ratios.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, write_image
from carl_cli.io.transforms.files import read_transform

CARL = (sys.executable, "-m", "carl_cli.cli.app")
SPACING_MM = 4.0


class Cost(NamedTuple):
    wall_s: float
    processor_s: float


def write_pairs(folder: Path, count: int, size: int) -> list[tuple[Path, Path]]:
    """Two bodies of blurred noise for each pair, one of them moved by some millimetres."""
    draw = np.random.default_rng(0)
    pairs = []
    for number in range(count):
        noise = draw.normal(size=(size,) * 3).astype(np.float32)
        paths = folder / f"{number:02d}_fixed.nii.gz", folder / f"{number:02d}_moving.nii.gz"
        for path, shift_mm in zip(paths, (0.0, draw.uniform(2, 8)), strict=True):
            write_image(path, _body(noise, shift_mm))
        pairs.append(paths)
    return pairs


def _body(noise: np.ndarray, shift_mm: float) -> Image:
    size = noise.shape[0]
    x = np.linspace(-1, 1, size)
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(x, x, x, indexing="ij")))
    values = np.where(distance < 0.8, 500 + 100 * noise, 0).astype(np.float32)
    unit = tuple(np.eye(3).ravel().tolist())
    return Image(values, Grid((size,) * 3, (SPACING_MM,) * 3, (shift_mm, 0.0, 0.0), unit))


def cost(*arguments: object) -> Cost:
    """Of one process and its children."""
    command = [*CARL, *map(str, arguments)]
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    after = os.times()
    spent = after.children_user + after.children_system
    return Cost(time.perf_counter() - start, spent - before.children_user - before.children_system)


def in_batch(folder: Path, pairs: list[tuple[Path, Path]], common: list[object]) -> Cost:
    lines = [f"{k},{fixed},{moving}" for k, (fixed, moving) in enumerate(pairs)]
    table = folder / "pairs.csv"
    table.write_text("\n".join(["id,fixed,moving", *lines]) + "\n")
    return cost("batch", table, "--out-dir", folder / "batch", *common)


def one_by_one(folder: Path, pairs: list[tuple[Path, Path]], common: list[object]) -> Cost:
    costs = []
    for number, pair in enumerate(pairs):
        own = folder / "single" / str(number)
        own.mkdir(parents=True)
        files = ("-o", own / "t.h5", "-w", own / "w.nii.gz", "--json", own / "r.json")
        costs.append(cost("register", *pair, *files, *common))
    return Cost(*map(sum, zip(*costs, strict=True)))


def check_same(folder: Path, count: int) -> None:
    """A batch that did less would be no rival."""
    points = np.random.default_rng(1).uniform(0, 80, (50, 3))
    for number in range(count):
        (ours,) = (folder / "batch" / str(number)).glob("*_xfm.h5")
        single = folder / "single" / str(number) / "t.h5"
        a, b = (read_transform(path)(points) for path in (ours, single))
        np.testing.assert_array_equal(a, b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--weights", default="carl-base")
    arguments = parser.parse_args()
    common: list[object] = ["--weights", arguments.weights, "--device", "cpu", "--threads", 1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write_pairs(folder, arguments.pairs, arguments.size)
        batch, single = in_batch(folder, pairs, common), one_by_one(folder, pairs, common)
        check_same(folder, arguments.pairs)
    print(f"{'':<28}{'seconds':>10}{'processor s':>14}")
    print(f"{'carl batch':<28}{batch.wall_s:>10.1f}{batch.processor_s:>14.1f}")
    print(f"{f'{len(pairs)} x carl register':<28}{single.wall_s:>10.1f}{single.processor_s:>14.1f}")
    ratios = (b / s for b, s in zip(batch, single, strict=True))
    print(f"{'ratio':<28}{next(ratios):>10.3f}{next(ratios):>14.3f}")


if __name__ == "__main__":
    main()

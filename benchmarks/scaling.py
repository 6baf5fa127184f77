"""What registration costs as grids and images grow; each run is a process of its own.

    python -m benchmarks.scaling grid --sides 64 96 128
    python -m benchmarks.scaling grid --weights paper --sides 175
    python -m benchmarks.scaling image --sides 128 256

grid: the network alone, both directions, on cubes of that side ("paper": the published
description with drawn weights). image: `carl register` from the shell to the written transform.
The power is that of the side by which a row's processor time exceeds the first row's.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.measure import Cost, process_cost, table

NETWORK = """
import sys, torch
from pathlib import Path
from carl_cli.system import keep_freed_memory
from carl_cli.model.network import ModelConfig, build_network
from carl_cli.weights.locate import locate
from carl_cli.weights.folder import load_weights
keep_freed_memory()
weights, side, directions = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
paper = weights == "paper"
network = build_network(ModelConfig()) if paper else load_weights(locate(weights), "cpu").network
fixed, moving = torch.rand(2, 1, 1, side, side, side)
with torch.inference_mode():
    maps = network.both_directions(fixed, moving) if directions == "2" else [network(fixed, moving)]
    assert all(bool(phi.on_grid(fixed.shape[2:]).isfinite().all()) for phi in maps)
"""
STARTED = "import torch, carl_cli.registration.register"
CARL = [sys.executable, "-m", "carl_cli.cli.app"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("of", choices=("grid", "image"))
    parser.add_argument("--sides", type=int, nargs="+", default=(64, 96, 128))
    parser.add_argument("--weights", default="carl-base")
    parser.add_argument("--directions", choices=("1", "2"), default="2")
    arguments = parser.parse_args()
    idle = process_cost([sys.executable, "-c", STARTED])
    costs = {side: cost_of(side, arguments) for side in arguments.sides}
    print(table(f"{arguments.of} size, {arguments.weights}", HEADER, rows(costs, idle)))


HEADER = ["side", "seconds", "CPU seconds", "peak MiB", "power of the side"]


def cost_of(side: int, arguments: argparse.Namespace) -> Cost:
    if arguments.of == "grid":
        options = [arguments.weights, str(side), arguments.directions]
        return process_cost([sys.executable, "-c", NETWORK, *options])
    with tempfile.TemporaryDirectory() as name:
        fixed, moving = (blobs(Path(name), side, seed) for seed in (0, 1))
        output = ["-o", Path(name) / "T.h5", "--weights", arguments.weights]
        return process_cost([*CARL, "register", fixed, moving, *output])


def blobs(folder: Path, side: int, seed: int) -> Path:
    """An int16 cube of 200 mm with a smooth random inside."""
    draw = np.random.default_rng(seed)
    coarse = sitk.GetImageFromArray(np.pad(draw.uniform(0, 1000, (8, 8, 8)), 2))
    coarse.SetSpacing([200 / 12] * 3)
    spacing, first = 200 / side, (200 / side - 200 / 12) / 2
    image = sitk.Resample(
        coarse, [side] * 3, sitk.Transform(), sitk.sitkLinear, [first] * 3, [spacing] * 3
    )
    path = folder / f"{seed}.nii"
    sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(path))
    return path


def rows(costs: dict[int, Cost], idle: Cost) -> list[list[object]]:
    """Starting alone is a row of its own, and taken off before powers are taken."""
    side, first = next(iter(costs.items()))
    result: list[list[object]] = [["start", idle.seconds, idle.cpu_seconds, idle.peak_mib, ""]]
    for other, cost in costs.items():
        ratio = (cost.cpu_seconds - idle.cpu_seconds) / (first.cpu_seconds - idle.cpu_seconds)
        power = math.log(ratio) / math.log(other / side) if other != side else ""
        result.append([other, cost.seconds, cost.cpu_seconds, cost.peak_mib, power])
    return result


if __name__ == "__main__":
    main()

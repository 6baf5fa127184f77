"""A forward pass in both directions: ours beside icon_registration's CARL, on equal weights.

    python -m benchmarks.forward --reference FOLDER --sides 48 64
    python -m benchmarks.forward --reference FOLDER --sides 175 --device cuda

FOLDER holds the unpacked icon_registration 1.1.9. On a processor its attention holds the whole
matrix of logits: 2 GB at a side of 64, 900 GB at the paper's 175.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.measure import table
from benchmarks.reference import ours, pair, their_maps, theirs
from benchmarks.timing import call_seconds, machine, peak_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=(48,))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = [row for side in arguments.sides for row in compare(side, arguments)]
    print(machine(arguments.device))
    print(table("", ["side", "network", "seconds", "GPU MiB", "ratio", "voxels apart"], rows))


def compare(side: int, arguments: argparse.Namespace) -> list[list[object]]:
    shape, device = (side,) * 3, arguments.device
    whole = theirs(arguments.reference, shape, device)
    network = ours(whole, device)
    fixed, moving = pair(shape, device)

    @torch.no_grad()
    def run_theirs() -> torch.Tensor:
        return torch.cat(their_maps(whole, fixed, moving))

    @torch.inference_mode()
    def run_ours() -> torch.Tensor:
        return torch.cat([phi.on_grid(shape) for phi in network.both(fixed, moving)])

    measured = {}
    for name, call in (("ours", run_ours), ("icon_registration", run_theirs)):
        with peak_memory(device) as mib:
            measured[name] = call_seconds(call, arguments.rounds, device), mib
    apart = float((run_ours() - run_theirs()).abs().max() * (side - 1))
    first = measured["ours"][0].median
    return [
        [side, name, seconds, *mib, seconds.median / first, apart]
        for name, (seconds, mib) in measured.items()
    ]


if __name__ == "__main__":
    main()

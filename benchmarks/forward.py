"""A forward pass in both directions: ours beside icon_registration's CARL, on equal weights.

    python -m benchmarks.forward --reference FOLDER --sides 48 64
    python -m benchmarks.forward --reference FOLDER --sides 175 --device cuda

FOLDER holds the unpacked icon_registration 1.1.9. On a processor its attention holds the whole
matrix of logits: 2 GB at a side of 64, 900 GB at the paper's 175; sides below 36 are too small for
its U-Nets. Share: FLOPs of the convolutions and of Q Kᵀ, each image encoded once, over the best
rate of a square matrix product in the same run: float32, and float16 on a GPU. Apart: the maps, at
most, in voxels.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import table
from benchmarks.reference import ours, pair, their_maps, theirs
from benchmarks.timing import call_seconds, machine, peak_memory, peak_of
from carl_cli.model.coarse import attention_of
from carl_cli.model.kernels.attention import backend_for
from carl_cli.model.network import ModelConfig
from carl_cli.model.operators import Registrar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=(48,))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    peak = peak_of(arguments.device)
    rows = [row for side in arguments.sides for row in compare(side, peak, arguments)]
    print(machine(arguments.device) + f"; peak {peak / 1e9:.0f} GFLOP/s")
    columns = ["side", "network", "seconds", "CPU seconds", "GPU MiB", "share", "ratio", "apart"]
    print(table("", columns, rows))


def compare(side: int, peak: float, arguments: argparse.Namespace) -> list[list[object]]:
    shape, device = (side,) * 3, arguments.device
    whole = theirs(arguments.reference, shape, device)
    network = ours(whole, device)
    fixed, moving = pair(shape, device)

    @torch.no_grad()
    def run_theirs() -> torch.Tensor:
        return torch.cat(their_maps(whole, fixed, moving))

    @torch.inference_mode()
    def run_ours() -> torch.Tensor:
        return torch.cat([phi.on_grid(shape) for phi in network.both_directions(fixed, moving)])

    measured = {}
    for name, call in (("ours", run_ours), ("icon_registration", run_theirs)):
        with peak_memory(device) as mib:
            measured[name] = call_seconds(call, arguments.rounds, device), mib
    apart = float((run_ours() - run_theirs()).abs().max() * (side - 1))
    first = measured["ours"][0].median
    needed = flops(network, fixed, moving) / peak
    return [
        [
            side,
            name,
            seconds,
            seconds.cpu,
            *mib,
            needed / seconds.median,
            seconds.median / first,
            apart,
        ]
        for name, (seconds, mib) in measured.items()
    ]


@torch.inference_mode()
def flops(network: Registrar, fixed: Tensor, moving: Tensor) -> float:
    """Of both directions, as torch counts them; it doesn't see into a fused kernel."""
    with FlopCounterMode(display=False) as counter:
        phi, _ = network.both_directions(fixed, moving)
    attention = attention_of(network)
    if not backend_for(fixed.device).__name__.endswith("fused") or phi.spread is None:
        return counter.get_total_flops()
    assert attention is not None
    shape = phi.spread.shape[2:]
    pairs = math.prod(shape) * math.prod(n + 2 * attention.margin for n in shape)
    return counter.get_total_flops() + 2 * 2 * pairs * ModelConfig().encoder.width


if __name__ == "__main__":
    main()

"""Coordinate attention by size: ours, torch's own kernel with padded values, and the definition.

    python -m benchmarks.attention [--device cuda] [--backward]

Seconds: median (least-most). Share: FLOPs of Q Kᵀ alone, 2 · N · M · C (three times that with
the backward pass, where four are computed), over the best rate of a square matrix
product in the same run: float32, and float16 on a GPU. The ratio is to ours.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measure import table
from benchmarks.timing import call_seconds, machine, peak_of
from carl_cli.model.fields import Shape, centred_indices
from carl_cli.model.kernels import sdpa
from carl_cli.model.kernels.attention import MAX_NORM, backend_for, mean_and_spread

NAIVE_MIB = 2048  # the whole matrix of logits must fit
Attention = Callable[[Tensor, Tensor, Shape], Tensor]


def ours(queries: Tensor, keys: Tensor, shape: Shape) -> Tensor:
    return mean_and_spread(queries, keys, shape)[0]


def padded(queries: Tensor, keys: Tensor, shape: Shape) -> Tensor:
    return sdpa.forward(queries, keys, shape)[0]


def naive(queries: Tensor, keys: Tensor, shape: Shape) -> Tensor:
    return torch.softmax(queries @ keys.transpose(1, 2), dim=-1) @ centred_indices(shape, queries).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--sides", type=int, nargs="+", default=(20, 32, 50), help="of the keys")
    parser.add_argument("--widths", type=int, nargs="+", default=(32, 128))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backward", action="store_true")
    arguments = parser.parse_args()
    peak = peak_of(arguments.device)
    rows = [
        row
        for width in arguments.widths
        for side in arguments.sides
        for row in rows_of(width, (side,) * 3, peak, arguments)
    ]
    print(machine(arguments.device) + f"; peak {peak / 1e9:.0f} GFLOP/s")
    print(table("", ["width", "queries", "keys", "way", "seconds", "share", "ratio"], rows))


def rows_of(
    width: int, shape: Shape, peak: float, arguments: argparse.Namespace
) -> list[list[object]]:
    queries = _features(arguments.queries, width, arguments.device)
    keys = _features(math.prod(shape), width, arguments.device)
    pairs = queries.shape[1] * keys.shape[1]
    backend = backend_for(queries.device).__name__.rpartition(".")[2]
    ways = {f"ours ({backend})": ours, "padded": padded, "definition": naive}
    if pairs * 4 / 2**20 > NAIVE_MIB:
        del ways["definition"]
    flops = 2 * pairs * width * (3 if arguments.backward else 1)
    measured = {
        name: call_seconds(
            _call(attention, queries, keys, shape, arguments.backward),
            arguments.rounds,
            arguments.device,
        )
        for name, attention in ways.items()
    }
    first = next(iter(measured.values())).median
    return [
        [width, queries.shape[1], keys.shape[1], name, s, flops / s.median / peak, s.median / first]
        for name, s in measured.items()
    ]


def _call(
    attention: Attention, queries: Tensor, keys: Tensor, shape: Shape, backward: bool
) -> Callable[[], object]:
    if not backward:
        return torch.inference_mode()(lambda: attention(queries, keys, shape))

    def both_ways() -> object:
        inputs = [x.clone().requires_grad_() for x in (queries, keys)]
        return torch.autograd.grad(attention(*inputs, shape).sum(), inputs)

    return both_ways


def _features(number: int, width: int, device: str) -> Tensor:
    x = torch.randn(1, number, width, generator=torch.Generator().manual_seed(number))
    return MAX_NORM * normalize(x, dim=-1).to(device)


if __name__ == "__main__":
    main()

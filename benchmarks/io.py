"""Instance optimisation of all parameters: ours beside icon_registration's, on equal weights.

    python -m benchmarks.io --reference FOLDER --sides 36 --steps 2
    python -m benchmarks.io --reference FOLDER --sides 175 --steps 50 --device cuda

FOLDER holds the unpacked icon_registration 1.1.9; sides below 36 are too small for its U-Nets.
Timed after one step of each that doesn't count. Ours includes what it does beside the steps: a
private copy of the network, and the loss and the maps of the last state.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.measure import table
from benchmarks.reference import ours, pair, their_steps, theirs
from benchmarks.timing import call_seconds, machine, peak_memory
from carl_cli.registration.instance import InstanceOptions, Pair, optimise

RATE = 2e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=(36,))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    rows = [row for side in arguments.sides for row in compare(side, arguments)]
    print(machine(arguments.device))
    print(
        table("", ["side", "steps", "network", "seconds", "CPU seconds", "GPU MiB", "ratio"], rows)
    )


def compare(side: int, arguments: argparse.Namespace) -> list[list[object]]:
    shape, device, steps = (side,) * 3, arguments.device, arguments.steps
    whole = theirs(arguments.reference, shape, device)
    network = ours(whole, device)
    fixed, moving = pair(shape, device)
    options = InstanceOptions(steps=steps, learning_rate=RATE, sigma=4, regularisation=1.5)

    def run_ours(steps: int) -> object:
        chosen = replace(options, steps=steps)
        return optimise(network, Pair(fixed, moving), chosen, align_corners=True)

    def run_theirs(steps: int) -> None:
        their_steps(whole, fixed, moving, steps, RATE)

    measured = {}
    for name, run in {"ours": run_ours, "icon_registration": run_theirs}.items():
        call, warm_up = partial(run, steps), partial(run, 1)
        with peak_memory(device) as mib:
            measured[name] = call_seconds(call, arguments.rounds, device, warm_up), mib
    first = measured["ours"][0].median
    return [
        [side, steps, name, seconds, seconds.cpu, *mib, seconds.median / first]
        for name, (seconds, mib) in measured.items()
    ]


if __name__ == "__main__":
    main()

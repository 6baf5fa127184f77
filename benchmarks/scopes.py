"""Instance optimisation: what each scope brings for its time, by steps and learning rate.

    python -m benchmarks.scopes [--voxels 64000] [--fixed F --moving M --fixed-seg S --moving-seg S]

One pair of lungs unless files are named. Dice: mean over the structures. CPU seconds: of this
process, from the images in memory to the maps, beside the same without optimisation. The grid is
made small, so that networks can be fitted on a CPU while one waits. A run with the default
options of the weights is marked.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.measure import table
from benchmarks.timing import machine
from carl_cli.evaluation.truth import Truth
from carl_cli.io.images.files import Image, read_image
from carl_cli.registration.instance import InstanceOptions
from carl_cli.registration.register import RegistrationOptions, register
from carl_cli.weights.folder import Weights, load_weights
from carl_cli.weights.locate import locate
from carl_cli.workflows.score import score

FIELD_STEPS = (6, 12, 24, 48)
RATES = {"refine": (1e-3, 5e-3), "all": (2e-5, 2e-3)}  # 2e-5: the paper's


def main() -> None:
    data = Path(os.environ.get("CARL_TEST_DATA", "../shared/data")) / "lung_mr_lobes"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fixed", type=Path, default=data / "0004.nii.gz")
    parser.add_argument("--moving", type=Path, default=data / "0006.nii.gz")
    parser.add_argument("--fixed-seg", type=Path, default=data / "0004_seg.nii.gz")
    parser.add_argument("--moving-seg", type=Path, default=data / "0006_seg.nii.gz")
    parser.add_argument("--weights", default="carl-base")
    parser.add_argument("--voxels", type=int, default=64_000, help="of the grid, at most")
    parser.add_argument("--steps", type=int, nargs="+", default=(10,), help="of all and refine")
    parser.add_argument("--scopes", nargs="+", default=("field", "refine", "all"))
    arguments = parser.parse_args()
    weights = on_grid(load_weights(locate(arguments.weights), "cpu"), arguments.voxels)
    pair = read_image(arguments.fixed), read_image(arguments.moving)
    truth = Truth(read_image(arguments.fixed_seg), read_image(arguments.moving_seg))
    advised = InstanceOptions(**asdict(weights.config.instance))
    chosen: list[InstanceOptions | None] = [None]
    for scope in arguments.scopes:
        chosen += choices(advised, scope, arguments.steps)
    print(machine(), flush=True)
    rows = []
    for options in chosen:
        rows.append(row(pair, truth, weights, options, options == advised))
        print(*rows[-1], flush=True)
    print(table(f"{arguments.fixed} {arguments.moving}", HEADER, rows))


HEADER = ["scope", "steps", "rate", "CPU seconds", "loss before", "after", "Dice", "folds %"]


def on_grid(weights: Weights, voxels: int) -> Weights:
    """The same weights on a grid of at most so many voxels."""
    rule = weights.config.preprocess.model_copy(update={"max_voxels": voxels})
    return weights.prepared_by(rule)


def choices(
    advised: InstanceOptions, scope: str, steps: tuple[int, ...]
) -> Iterator[InstanceOptions]:
    """What is tried of a scope; the rest as the weights advise it."""
    if scope == "field":
        yield from (replace(advised, scope=scope, steps=n) for n in FIELD_STEPS)
        return
    for rate in RATES[scope]:
        yield from (replace(advised, scope=scope, steps=n, learning_rate=rate) for n in steps)


def row(
    pair: tuple[Image, Image],
    truth: Truth,
    weights: Weights,
    options: InstanceOptions | None,
    is_default: bool,
) -> list[object]:
    start = time.process_time()
    result = register(*pair, weights, RegistrationOptions(instance=options))
    spent = time.process_time() - start
    metrics = score(*pair, result, truth)
    before, after = (result.losses[0], min(result.losses)) if result.losses else ("", "")
    figures = [spent, before, after, metrics.mean_dice, metrics.folded_percent]
    if options is None:
        return ["none", "", "", *figures]
    rate = "" if options.scope == "field" else options.learning_rate
    return [options.scope + " (default)" * is_default, options.steps, rate, *figures]


if __name__ == "__main__":
    main()

"""Lobe Dice on the six ordered pairs of three people's lung MR, against simple alignments.

    python benchmarks/lungs.py ../shared/data/lung_mr_lobes [--io] [--shift 40 -30 50]

Prints one row a pair: headers as they are, image centres aligned, centres of mass aligned,
carl; then the means. --shift moves the moving image and its labels by so many mm first.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from carl_cli.devices import chosen_weights
from carl_cli.evaluation import dice, folded_percent
from carl_cli.instance import InstanceOptions
from carl_cli.io.image import Image, read_image
from carl_cli.io.resample import resample
from carl_cli.preprocess import initialise
from carl_cli.registration import RegistrationOptions, register
from carl_cli.transform import Transform, jacobian_determinant

PEOPLE = ("0004", "0006", "0007")


def moved(image: Image, shift_mm: tuple[float, ...]) -> Image:
    """The same voxels elsewhere."""
    origin = tuple(o + s for o, s in zip(image.grid.origin_mm, shift_mm, strict=True))
    return replace(image, grid=replace(image.grid, origin_mm=origin))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="carl-base")
    parser.add_argument("--io", action="store_true")
    parser.add_argument("--shift", type=float, nargs=3, default=(0.0, 0.0, 0.0))
    arguments = parser.parse_args()
    weights = chosen_weights(arguments.weights, "cpu")
    instance = InstanceOptions(**weights.config.instance.model_dump()) if arguments.io else None
    rows = []
    print("fixed moving  headers centres moments    carl  folds %  seconds")
    for a, b in itertools.permutations(PEOPLE, 2):
        fixed, fixed_seg = (read_image(arguments.folder / f"{a}{k}.nii.gz") for k in ("", "_seg"))
        pair = (read_image(arguments.folder / f"{b}{k}.nii.gz") for k in ("", "_seg"))
        moving, moving_seg = (moved(image, tuple(arguments.shift)) for image in pair)

        def score(transform: Transform | None) -> float:
            warped = resample(moving_seg, fixed_seg.grid, transform, interpolator="nearest")  # noqa: B023
            return dice(fixed_seg.array, warped.array).mean  # noqa: B023

        start = time.perf_counter()
        result = register(fixed, moving, weights, RegistrationOptions(instance=instance))
        seconds = time.perf_counter() - start
        simple = [initialise(fixed, moving, how) for how in ("centers", "moments")]
        scores = [score(t) for t in (None, *simple, result.forward)]
        folds = folded_percent(jacobian_determinant(result.forward, result.prepared.fixed.grid))
        rows.append([*scores, folds, seconds])
        print(f"{a:>5} {b:>6} ", *(f"{s:7.4f}" for s in scores), f"{folds:8.4f} {seconds:8.1f}")
    print("mean          ", *(f"{m:7.4f}" for m in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()

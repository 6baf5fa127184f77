"""How far may the moving image be turned? Success against angle for --init none, moments, rigid.

    python benchmarks/rotation.py ../shared/data [--angles 0 30 … 180] [--axes 2] [--init …]

Pairs: T1 of two people, lung MR of two people. The moving image's header is turned about the
image's middle by each angle, about z and about random axes. A registration succeeds if it comes
to within 10 mm (mean over the fixed foreground) of the registration of the unturned pair, turned:
there is no other truth between two people. --side: voxels a side of the network's grid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from carl_cli.devices import chosen_weights
from carl_cli.io.image import Image, read_image
from carl_cli.registration import Init, Registration, RegistrationOptions, register
from carl_cli.transform import AffineTransform, Transform
from carl_cli.weights import Weights

PAIRS = {
    "brain": ("brain_t1/image_A.nii.gz", "brain_t1/image_B.nii.gz"),
    "lung": ("lung_mr_lobes/0004.nii.gz", "lung_mr_lobes/0006.nii.gz"),
}
SUCCESS_MM = 10.0


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """(3, 3), Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def turned(image: Image, turn: np.ndarray) -> tuple[Image, AffineTransform]:
    """The same voxels turned about their middle, and the map of old places to new ones."""
    grid, middle = image.grid, image.grid.centre_mm
    motion = AffineTransform(turn, middle - turn @ middle)
    origin = tuple(map(float, motion(np.array(grid.origin_mm))))
    direction = tuple(map(float, (turn @ grid.direction_matrix).ravel()))
    return replace(image, grid=replace(grid, origin_mm=origin, direction=direction)), motion


def foreground_mm(result: Registration) -> np.ndarray:
    """Every second voxel of the fixed image that is not background, (N, 3)."""
    fixed, step = result.prepared.fixed, (slice(None, None, 2),) * 3
    return fixed.grid.points_mm()[step][fixed.array[step] > 0.05]


def error_mm(found: Transform, expected: Transform, points: np.ndarray) -> float:
    return float(np.linalg.norm(found(points) - expected(points), axis=1).mean())


def cases(angles: list[float], axes: int, seed: int) -> Iterator[tuple[float, np.ndarray]]:
    """(angle, rotation): about z, then about random axes, the same for every angle."""
    random = np.random.default_rng(seed)
    chosen = [np.array([0.0, 0.0, 1.0]), *random.normal(size=(axes - 1, 3))]
    for angle in angles:
        for axis in chosen[: 1 if angle == 0 else axes]:
            yield angle, rotation(axis, angle)


def small(weights: Weights, side: int | None) -> Weights:
    if side is None:
        return weights
    rule = weights.config.preprocess.model_copy(update={"max_voxels": side**3})
    return replace(weights, config=weights.config.model_copy(update={"preprocess": rule}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="carl-base")
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--angles", type=float, nargs="+", default=[*range(0, 181, 30)])
    parser.add_argument("--axes", type=int, default=2)
    parser.add_argument(
        "--init", nargs="+", choices=get_args(Init), default=["none", "moments", "rigid"]
    )
    parser.add_argument("--side", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    weights = small(chosen_weights(arguments.weights, "cpu"), arguments.side)
    print("pair   angle  init      error mm  success  CPU s")
    rows: dict[tuple[float, str], list[bool]] = {}
    for name in arguments.pairs:
        fixed, moving = (read_image(arguments.folder / path) for path in PAIRS[name])
        straight = register(fixed, moving, weights)
        points = foreground_mm(straight)
        for angle, turn in cases(arguments.angles, arguments.axes, arguments.seed):
            seen, motion = turned(moving, turn)
            for init in arguments.init:
                start = time.process_time()
                found = register(fixed, seen, weights, RegistrationOptions(init=init)).forward
                seconds = time.process_time() - start
                error = error_mm(found, motion @ straight.forward, points)
                rows.setdefault((angle, init), []).append(error < SUCCESS_MM)
                verdict = "yes" if error < SUCCESS_MM else "no"
                print(
                    f"{name:<6} {angle:5.0f}  {init:<8} {error:9.1f}  {verdict:>7} {seconds:6.1f}",
                    flush=True,
                )
    print("\nangle  " + "  ".join(f"{init:>8}" for init in arguments.init))
    for angle in arguments.angles:
        told = (rows[angle, init] for init in arguments.init)
        print(f"{angle:5.0f}  " + "  ".join(f"{sum(t):>5}/{len(t)}" for t in told))


if __name__ == "__main__":
    main()

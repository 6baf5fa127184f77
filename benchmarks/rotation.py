"""How far may the moving image be turned? Success against angle for --init none, moments, rigid.

    python benchmarks/rotation.py ../shared/data [--angles 0 30 … 180] [--axes 2] [--init …]
        [--figure rotation.png] [-o rotation.csv]

Pairs: T1 of two people, lung MR of two people. The moving image's header is turned about the
image's middle by each angle, about z and about random axes. A registration succeeds if it comes
to within 10 mm (mean over the fixed foreground) of the registration of the unturned pair, turned:
there is no other truth between two people. --side: voxels a side of the network's grid. The
table of examples/README.md is made of examples/paper/results/rotation.csv, which -o writes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from carl_cli.evaluation.tables import write_csv
from carl_cli.io.images.files import Image, read_image
from carl_cli.registration.options import Init
from carl_cli.registration.register import Registration, RegistrationOptions, register
from carl_cli.report.figure import save_curves
from carl_cli.transforms import AffineTransform, Transform
from carl_cli.weights.folder import Weights
from carl_cli.weights.locate import chosen_weights

PAIRS = {
    "brain": ("brain_t1/image_A.nii.gz", "brain_t1/image_B.nii.gz"),
    "lung": ("lung_mr_lobes/0004.nii.gz", "lung_mr_lobes/0006.nii.gz"),
}
SUCCESS_MM = 10.0


class Try(NamedTuple):
    """One registration of a turned pair. error_mm: mean over the fixed foreground."""

    pair: str
    angle: float
    init: str
    error_mm: float
    seconds: float

    @property
    def found(self) -> bool:
        return self.error_mm < SUCCESS_MM


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
    return weights.prepared_by(rule)


def arguments() -> argparse.Namespace:
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
    parser.add_argument("--figure", type=Path, help="curves: .png, .svg or .pdf")
    parser.add_argument("-o", "--out", type=Path, help="the table as CSV")
    return parser.parse_args()


def tries(given: argparse.Namespace) -> Iterator[Try]:
    """One registration after the other."""
    weights = small(chosen_weights(given.weights, "cpu"), given.side)
    for name in given.pairs:
        fixed, moving = (read_image(given.folder / path) for path in PAIRS[name])
        straight = register(fixed, moving, weights)
        points = foreground_mm(straight)
        for angle, turn in cases(given.angles, given.axes, given.seed):
            seen, motion = turned(moving, turn)
            for init in given.init:
                start = time.process_time()
                found = register(fixed, seen, weights, RegistrationOptions(init=init)).forward
                seconds = time.process_time() - start
                error = error_mm(found, motion @ straight.forward, points)
                yield Try(name, angle, init, error, seconds)


def told(of: Try) -> str:
    verdict = "yes" if of.found else "no"
    return (
        f"{of.pair:<6} {of.angle:5.0f}  {of.init:<8} {of.error_mm:9.1f}  {verdict:>7} "
        f"{of.seconds:6.1f}"
    )


def summary(done: list[Try], angles: list[float], inits: list[str]) -> list[dict[str, Any]]:
    """A row for each angle and init: how many were found of how many, and the mean error."""
    rows = []
    for angle, init in product(angles, inits):
        tried = [t for t in done if (t.angle, t.init) == (angle, init)]
        error = round(float(np.mean([t.error_mm for t in tried])), 2)
        found = {"found": sum(t.found for t in tried), "tried": len(tried), "error_mm": error}
        rows.append({"angle": angle, "init": init, **found})
    return rows


def cell(row: dict[str, Any]) -> str:
    return f"{row['found']} of {row['tried']} ({row['error_mm']:.0f} mm)"


def main() -> None:
    given = arguments()
    print("pair   angle  init      error mm  success  CPU s")
    done = []
    for one in tries(given):
        done.append(one)
        print(told(one), flush=True)
    rows = summary(done, given.angles, given.init)
    print("\nangle  " + "  ".join(f"{init:>15}" for init in given.init))
    for angle in given.angles:
        cells = (cell(row) for row in rows if row["angle"] == angle)
        print(f"{angle:5.0f}  " + "  ".join(f"{text:>15}" for text in cells))
    if given.out is not None:
        write_csv(given.out, rows)
    if given.figure is not None:
        shares = [{**row, "found_%": 100 * row["found"] / row["tried"]} for row in rows]
        save_curves(given.figure, shares, "angle", "found_%", "init")


if __name__ == "__main__":
    main()

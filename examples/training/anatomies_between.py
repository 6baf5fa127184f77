"""More anatomies from few: each person bent part of the way to each other one.

    python -m examples.training.anatomies_between brains.npz -o more.npz subject01 subject02 …

Images are rendered T1-like from the label maps (`carl train prepare --freesurfer`) and registered.
A map of A on the grid of B follows a random part, between 0.3 and 0.7, of the displacements from B
to A: at 0 it would be A, at 1 A in the shape of B. Nine people make 72 maps more, in 20 minutes of
one core at 1.5 mm. The tissues of carl-base went from a Dice of .763 to .778,
of three other people, in 2,488 more steps with them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import carl_cli as carl
from carl_cli.io.atomic import atomic_path

LEAST, MOST = 0.3, 0.7
NOISE = 0.02  # of the brightest tissue: flat tissues would have no self-similarity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("maps", type=Path, help="of carl train prepare --freesurfer")
    parser.add_argument("people", nargs="+", help="names in it: those that are trained on")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    with np.load(arguments.maps) as file:
        arrays = {name: file[name] for name in file.files}
    for name, labels in anatomies_between(arrays, arguments.people):
        print(name, flush=True)
        arrays[name] = labels
    with atomic_path(arguments.out) as path:
        np.savez_compressed(path, **arrays)


def anatomies_between(
    arrays: Mapping[str, NDArray[Any]], people: Sequence[str], seed: int = 0
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and map (z, y, x) of each person on the way to each other one."""
    random, spacing = np.random.default_rng(seed), float(arrays["spacing_mm"])
    for pair in combinations(people, 2):
        maps = [on_grid(arrays[name], spacing) for name in pair]
        images = [rendered(labels, arrays["t1"], random) for labels in maps]
        found = carl.register(images[0], images[1])
        for fixed, way in ((0, found.forward), (1, found.backward)):
            between = moved_part(
                maps[1 - fixed], maps[fixed].grid, way, random.uniform(LEAST, MOST)
            )
            yield f"{pair[1 - fixed]}towards{pair[fixed]}", between.array


def on_grid(array: NDArray[Any], spacing_mm: float) -> carl.Image:
    """The axes of prepared maps are those of LPS; the middle lies at the origin."""
    size = array.shape[::-1]
    origin = tuple(-spacing_mm * (n - 1) / 2 for n in size)
    return carl.Image(array, carl.Grid(size, (spacing_mm,) * 3, origin, tuple(np.eye(3).ravel())))


def rendered(labels: carl.Image, t1: NDArray[Any], random: np.random.Generator) -> carl.Image:
    bright = t1[labels.array].astype(np.float32)
    noise = random.normal(0, NOISE, bright.shape).astype(np.float32)
    return carl.Image(bright + noise, labels.grid)


def moved_part(labels: carl.Image, grid: carl.Grid, way: Any, part: float) -> carl.Image:
    """The labels on a grid, through a transform of whose displacements only a part counts."""
    points = grid.points_mm()
    shorter = carl.DisplacementField(grid, part * (way(points) - points))
    return carl.warp(labels, grid, shorter, interpolator="nearest")


if __name__ == "__main__":
    main()

"""A template of five brains: carl beside antspyx's build_template on the same files, in one run.

    python benchmarks/template.py [--rounds 3] [--spacing 4]

Seconds of one thread's processor, start and reading included. Dice is the mean over all pairs of
images and all structures, labels being carried to the template; for ANTs, whose function gives no
transforms, by one more registration of each image, which does not count. Sharpness is the mean
squared gradient of the template over its variance, 1000 / mm².
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from itertools import combinations
from pathlib import Path

import ants
import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).parents[1]))  # `benchmarks` itself, however this is run

from benchmarks.contest.brains import STRUCTURES, rendered
from benchmarks.contest.contenders import ONE_THREAD
from benchmarks.measure import process_cost, table

DATA = Path(os.environ.get("CARL_TEST_DATA", "../shared/data")) / "brain_label_maps"
SUBJECTS = 5
ANTS = """
import sys, ants
ants.config.set_ants_deterministic(False, 1)
target, rounds, *paths = sys.argv[1:]
images = [ants.image_read(path) for path in paths]
made = ants.build_template(image_list=images, iterations=int(rounds), type_of_transform="SyN")
ants.image_write(made, target)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spacing", type=float, default=4.0, help="mm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = _render(folder, arguments.spacing)
        rows = [maker(folder, names, arguments.rounds) for maker in (_by_carl, _by_ants)]
    print(table("Template of five brains", ("", "CPU seconds", "Dice", "sharpness"), rows))
    print(f"carl takes {rows[0][1] / rows[1][1]:.2f} of the time of ANTs")


def _render(folder: Path, spacing_mm: float) -> list[str]:
    """Images and labels of the first people, coarser than they are."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    paths = sorted(DATA.glob("*.nii.gz"))[:SUBJECTS]
    for seed, path in enumerate(paths):
        image, labels = rendered(path, seed)
        grid = _coarser(image, spacing_mm)
        smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), spacing_mm / 2)
        small = sitk.Resample(smooth, grid, sitk.Transform(), sitk.sitkLinear)
        sitk.WriteImage(small, str(folder / "images" / path.name))
        known = sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        sitk.WriteImage(sitk.Cast(known, sitk.sitkUInt8), str(folder / "labels" / path.name))
    return [path.name for path in paths]


def _coarser(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    size = [
        round(n * s / spacing_mm) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    return grid


def _by_carl(folder: Path, names: list[str], rounds: int) -> tuple[str, float, float, float]:
    target = folder / "carl.nii.gz"
    line = [sys.executable, "-m", "carl_cli.cli.app", "template", str(folder / "images"), "-q"]
    line += ["-o", str(target), "--rounds", str(rounds), "--threads", "1"]
    seconds = process_cost(line, ONE_THREAD).cpu_seconds
    grid = sitk.ReadImage(str(target))
    carried = []
    for name in names:
        case = name.removesuffix(".nii.gz")
        path = folder / "carl_transforms" / f"from-{case}_to-template_mode-image_xfm.h5"
        labels = sitk.ReadImage(str(folder / "labels" / name))
        there = sitk.ReadTransform(str(path))
        seen = sitk.Resample(labels, grid, there, sitk.sitkNearestNeighbor)
        carried.append(sitk.GetArrayFromImage(seen))
    return "carl", seconds, _dice(carried), _sharpness(target)


def _by_ants(folder: Path, names: list[str], rounds: int) -> tuple[str, float, float, float]:
    target = folder / "ants.nii.gz"
    images = [str(folder / "images" / name) for name in names]
    line = [sys.executable, "-c", ANTS, str(target), str(rounds), *images]
    seconds = process_cost(line, ONE_THREAD).cpu_seconds
    grid = ants.image_read(str(target))
    carried = []
    for name in names:
        image = ants.image_read(str(folder / "images" / name))
        labels = ants.image_read(str(folder / "labels" / name))
        found = ants.registration(grid, image, type_of_transform="SyN")["fwdtransforms"]
        seen = ants.apply_transforms(grid, labels, found, interpolator="nearestNeighbor")
        carried.append(seen.numpy())
    return "ANTs", seconds, _dice(carried), _sharpness(target)


def _dice(carried: list[np.ndarray]) -> float:
    """Mean over pairs and structures that one of the two has."""
    found = []
    for a, b in combinations(carried, 2):
        for value in STRUCTURES:
            one, other = a == value, b == value
            if total := one.sum() + other.sum():
                found.append(2 * np.sum(one & other) / total)
    return float(np.mean(found))


def _sharpness(path: Path) -> float:
    image = sitk.ReadImage(str(path), sitk.sitkFloat64)
    values = sitk.GetArrayFromImage(image)
    slopes = np.gradient(values, *image.GetSpacing()[::-1])
    return 1000 * float(np.mean(sum(slope**2 for slope in slopes)) / values.var())


if __name__ == "__main__":
    main()

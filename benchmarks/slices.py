"""Slices: carl beside ANTs on ten pairs of brain slices and their labels, in one run.

    python benchmarks/slices.py

Mean Dice of the labels that both slices show, of the pairs that settings were chosen on and of the
others; seconds of one thread, start and reading included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import ants
import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).parents[1]))  # `benchmarks` itself, however this is run

from benchmarks.contest.contenders import ANTS_CODE, ONE_THREAD
from benchmarks.measure import process_cost

DATA = Path(os.environ.get("CARL_TEST_DATA", "../shared/data")) / "brain_slices_2d"
PAIRS = [(n, n + 1) for n in range(1, 20, 2)]
TUNING = 5  # the first of them
LEAST_PIXELS = 50
CONTRASTS = ("as it is", "inverted")
METHODS = ("before", "SyNQuick", "carl", "carl --io")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="carl-base-2d", help="a name or a folder")
    parser.add_argument("--pairs", type=int, default=len(PAIRS))
    parser.add_argument("--methods", default=",".join(METHODS))
    arguments = parser.parse_args()
    print("| moving image | | Dice, tuning pairs | other pairs | seconds |\n|---|---|---|---|---|")
    for contrast in CONTRASTS:
        for method in arguments.methods.split(","):
            rows = [_row(method, contrast, pair, arguments) for pair in PAIRS[: arguments.pairs]]
            dice, seconds = zip(*rows, strict=True)
            halves = f"{np.mean(dice[:TUNING]):.3f} | {np.mean(dice[TUNING:] or [np.nan]):.3f}"
            print(f"| {contrast} | {method} | {halves} | {np.mean(seconds):.1f} |", flush=True)


def _row(
    method: str, contrast: str, pair: tuple[int, int], arguments: argparse.Namespace
) -> tuple[float, float]:
    fixed, moving = (DATA / f"OASIS-TRT-20-{n}_slice118.nii.gz" for n in pair)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if contrast == "inverted":
            moving = _inverted(moving, folder / "moving.nii.gz")
        transform, seconds = sitk.Transform(2, sitk.sitkIdentity), 0.0
        if method != "before":
            command = _command(method, fixed, moving, folder, arguments.weights)
            seconds = process_cost(command, ONE_THREAD).cpu_seconds
            transform = _transform(folder)
    return _dice(pair, transform), seconds


def _inverted(path: Path, target: Path) -> Path:
    """Bright where it was dark, inside the head; the background stays at zero."""
    image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    head = sitk.Cast(image > 0.1 * float(sitk.GetArrayViewFromImage(image).max()), sitk.sitkFloat32)
    top = float(np.percentile(sitk.GetArrayViewFromImage(image), 99.5))
    sitk.WriteImage(sitk.Clamp(1.1 * top - image, sitk.sitkFloat32, 0) * head, str(target))
    return target


def _command(method: str, fixed: Path, moving: Path, folder: Path, weights: str) -> list[str]:
    if method == "SyNQuick":
        kind = "antsRegistrationSyNQuick[s]"
        return [sys.executable, "-c", ANTS_CODE, str(fixed), str(moving), kind, f"{folder}/"]
    line = [sys.executable, "-m", "carl_cli.cli.app", "register", str(fixed), str(moving), "-q"]
    line += ["-o", str(folder / "T.h5"), "--weights", weights, "--threads", "1"]
    return line + method.split()[1:]


def _transform(folder: Path) -> sitk.Transform:
    if (folder / "T.h5").exists():
        return sitk.ReadTransform(str(folder / "T.h5"))
    field = sitk.ReadImage(str(folder / "1Warp.nii.gz"), sitk.sitkVectorFloat64)
    composite = sitk.CompositeTransform(2)
    composite.AddTransform(_affine(ants.read_transform(str(folder / "0GenericAffine.mat"))))
    composite.AddTransform(sitk.DisplacementFieldTransform(field))
    return composite


def _affine(read: ants.ANTsTransform) -> sitk.Transform:
    affine = sitk.AffineTransform(2)
    affine.SetParameters(read.parameters.tolist())
    affine.SetFixedParameters(read.fixed_parameters.tolist())
    return affine


def _dice(pair: tuple[int, int], transform: sitk.Transform) -> float:
    paths = (DATA / f"OASIS-TRT-20-{n}_DKT31_CMA_labels_slice118.nii.gz" for n in pair)
    fixed, moving = (sitk.ReadImage(str(p), sitk.sitkInt32) for p in paths)
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor)
    a, b, there = map(sitk.GetArrayViewFromImage, (fixed, warped, moving))
    counts = [np.unique(x, return_counts=True) for x in (a, there)]
    large = [set(values[n >= LEAST_PIXELS].tolist()) for values, n in counts]
    labels = sorted(set.intersection(*large) - {0})
    both = [2 * np.sum((a == k) & (b == k)) / (np.sum(a == k) + np.sum(b == k)) for k in labels]
    return float(np.mean(both))


if __name__ == "__main__":
    main()

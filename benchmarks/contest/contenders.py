"""Who competes: two files in, files of transforms out, each in a process of its own.

A transform maps fixed points to moving points in LPS mm; of several files the last one acts
first, as ITK composes them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import SimpleITK as sitk

from benchmarks.contest.pairs import Pair

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ONE_THREAD |= {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "PYTHONPATH": str(ROOT)}
ANTS_CODE = """
import sys, ants
ants.config.set_ants_deterministic(False, 1)  # a fixed seed; the method stays the usual one
fixed, moving, kind, prefix = sys.argv[1:]
fixed, moving = ants.image_read(fixed), ants.image_read(moving)
ants.registration(fixed, moving, type_of_transform=kind, outprefix=prefix)
"""
LONGEST_SECONDS = 3600
CHILD_TIMES = ("children_user", "children_system")


@dataclass(frozen=True)
class Result:
    """transform: of points, LPS mm. cpu_seconds: of the whole process, None if there was none;
    cached: from an earlier run."""

    transform: sitk.Transform
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    cached: bool = False


class FailedError(Exception):
    """A contender's process ended with an error; the message holds its last words."""


Contender = Callable[[Pair, Path], Result]


def before(_pair: Pair, _folder: Path) -> Result:
    """What the headers say."""
    return Result(sitk.Transform(3, sitk.sitkIdentity))


def centres(pair: Pair, _folder: Path) -> Result:
    """Image centres aligned."""
    fixed, moving = (_centre(sitk.ReadImage(str(p))) for p in (pair.fixed, pair.moving))
    return Result(sitk.TranslationTransform(3, [b - a for a, b in zip(fixed, moving, strict=True)]))


def ants(kind: str) -> Contender:
    def run(pair: Pair, folder: Path) -> Result:
        kept = folder / f"antspyx-{version('antspyx')}" / kind.partition("[")[0] / pair.key
        if not (kept / "seconds.json").exists():
            kept.mkdir(parents=True, exist_ok=True)
            files = [str(pair.fixed), str(pair.moving), kind, f"{kept}/"]
            seconds = _process([sys.executable, "-c", ANTS_CODE, *files])
            (kept / "seconds.json").write_text(json.dumps(seconds))
            return Result(_ants_transform(kept), *seconds)
        seconds = json.loads((kept / "seconds.json").read_text())
        return Result(_ants_transform(kept), *seconds, cached=True)

    return run


def carl(weights: str, *options: str) -> Contender:
    def run(pair: Pair, folder: Path) -> Result:
        out = folder / "carl" / pair.key
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        command = [sys.executable, "-m", "carl_cli.cli.app", "register", pair.fixed, pair.moving]
        command += ["-o", out / "T.h5", "--weights", weights, "--threads", "1", "-q", *options]
        seconds = _process([str(c) for c in command])
        return Result(sitk.ReadTransform(str(out / "T.h5")), *seconds)

    return run


def contenders(weights: str) -> dict[str, Contender]:
    """By their names in the table, in its order."""
    return {
        "before": before,
        "centres": centres,
        "Affine": ants("Affine"),
        "SyNQuick": ants("antsRegistrationSyNQuick[s]"),
        "SyN": ants("antsRegistrationSyN[s]"),
        "carl": carl(weights),
        "carl --io": carl(weights, "--io"),
    }


def _centre(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def _ants_transform(folder: Path) -> sitk.Transform:
    """The affine, and the warp that acts before it where there is one."""
    composite = sitk.CompositeTransform(3)
    composite.AddTransform(sitk.ReadTransform(str(folder / "0GenericAffine.mat")))
    if (folder / "1Warp.nii.gz").exists():
        field = sitk.ReadImage(str(folder / "1Warp.nii.gz"), sitk.sitkVectorFloat64)
        composite.AddTransform(sitk.DisplacementFieldTransform(field))
    return composite


def _process(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a process with one thread, start and imports included."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | ONE_THREAD,
        timeout=LONGEST_SECONDS,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise FailedError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    after = os.times()
    user, system = (getattr(after, k) - getattr(before, k) for k in CHILD_TIMES)
    return user + system, time.perf_counter() - start

"""Who competes: two files in, files of transforms out, each in a process of its own.

A transform maps fixed points to moving points in LPS mm; of several files the last one acts
first, as ITK composes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import SimpleITK as sitk

from benchmarks.contest.pairs import Pair
from benchmarks.measure import process_cost

ROOT = Path(__file__).parents[2]
RECORD = "record.json"  # of carl
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ONE_THREAD |= {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
ONE_THREAD |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
ANTS_CODE = """
import sys, ants
ants.config.set_ants_deterministic(False, 1)  # a fixed seed; the method stays the usual one
fixed, moving, kind, prefix = sys.argv[1:]
fixed, moving = ants.image_read(fixed), ants.image_read(moving)
ants.registration(fixed, moving, type_of_transform=kind, outprefix=prefix)
"""


@dataclass(frozen=True)
class Result:
    """transform: of points, LPS mm. cpu_seconds: of the whole process, None if there was none;
    cached: from an earlier run; warned: whether the program doubts it, None for one that never
    does."""

    transform: sitk.Transform
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    cached: bool = False
    warned: bool | None = None


class FailedError(Exception):
    """A contender's process ended with an error; the message holds its last words."""


class NotKeptError(Exception):
    """No earlier run did this pair, and nothing was to be computed."""


class Contender(Protocol):
    def __call__(self, pair: Pair, cache: Path, compute: bool = True) -> Result: ...


def before(_pair: Pair, _cache: Path, _compute: bool = True) -> Result:
    """What the headers say."""
    return Result(sitk.Transform(3, sitk.sitkIdentity))


def centres(pair: Pair, _cache: Path, _compute: bool = True) -> Result:
    """Image centres aligned."""
    fixed, moving = (_centre(sitk.ReadImage(str(p))) for p in (pair.fixed, pair.moving))
    return Result(sitk.TranslationTransform(3, [b - a for a, b in zip(fixed, moving, strict=True)]))


@dataclass(frozen=True)
class Program:
    """A contender that is a process. name: of the folder in the cache, the same for what gives
    the same result; command(pair, folder) writes files that load(folder) reads."""

    name: str
    command: Callable[[Pair, Path], list[str]]
    load: Callable[[Path], sitk.Transform]

    def __call__(self, pair: Pair, cache: Path, compute: bool = True) -> Result:
        folder = cache / self.name / pair.key
        note = folder / "seconds.json"
        if note.exists():
            seconds = json.loads(note.read_text())
            return Result(self.load(folder), *seconds, cached=True, warned=_warned(folder))
        if not compute:
            raise NotKeptError(pair.name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            cost = process_cost(self.command(pair, folder), ONE_THREAD)
        except SystemExit as error:
            raise FailedError(str(error)) from error
        seconds = (cost.cpu_seconds, cost.seconds)
        note.write_text(json.dumps(seconds))
        return Result(self.load(folder), *seconds, warned=_warned(folder))


def _warned(folder: Path) -> bool | None:
    record = folder / RECORD
    return bool(json.loads(record.read_text())["warnings"]) if record.exists() else None


def ants(kind: str) -> Contender:
    def command(pair: Pair, folder: Path) -> list[str]:
        files = [str(pair.fixed), str(pair.moving), kind, f"{folder}/"]
        return [sys.executable, "-c", ANTS_CODE, *files]

    # ANTs takes brackets in a path for its own.
    name = f"antspyx-{version('antspyx')}/{kind.partition('[')[0]}"
    return Program(name, command, _ants_transform)


def carl(weights: Path, *options: str) -> Contender:
    def command(pair: Pair, folder: Path) -> list[str]:
        line = [sys.executable, "-m", "carl_cli.cli.app", "register", pair.fixed, pair.moving]
        line += ["-o", folder / "T.h5", "--json", folder / RECORD, "--overwrite"]
        line += ["--weights", weights]
        return [str(word) for word in (*line, "--threads", "1", "-q", *options)]

    name = f"carl-{carl_digest(weights)}/{''.join(options) or 'plain'}"
    return Program(name, command, lambda folder: sitk.ReadTransform(str(folder / "T.h5")))


def carl_digest(weights: Path) -> str:
    """Of the program and the weights, by which its results are kept."""
    digest = hashlib.sha256()
    for path in (*sorted((ROOT / "carl_cli").rglob("*.py")), *sorted(weights.glob("*.*s*"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


METHODS = ("before", "centres", "Affine", "SyNQuick", "SyN", "carl", "carl --io")


def contenders(weights: Path) -> dict[str, Contender]:
    """METHODS, in the order of the table."""
    syn = (ants("antsRegistrationSyNQuick[s]"), ants("antsRegistrationSyN[s]"))
    ours = (carl(weights), carl(weights, "--io"))
    return dict(zip(METHODS, (before, centres, ants("Affine"), *syn, *ours), strict=True))


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

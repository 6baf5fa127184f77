"""The pairs of each set, written as files that every contender reads."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.contest.bent import bent_pair
from benchmarks.contest.brains import STRUCTURES, rendered

BRAINS = ("subject10", "subject11", "subject12")
LUNGS = ("0004", "0006", "0007")
SLABS = ("1", "2", "3")
CT_DRAWS = (1, 2, 3)


@dataclass(frozen=True)
class Pair:
    """Files of one pair. labels: which values of the segmentations are scored; points: an npz
    of corresponding `fixed` and `moving` (N, 3) LPS mm, instead of segmentations."""

    name: str
    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    labels: tuple[int, ...] = ()
    points: Path | None = None

    @property
    def key(self) -> str:
        """Of what the contenders read."""
        digest = hashlib.sha256()
        for path in (self.fixed, self.moving):
            image = sitk.ReadImage(str(path))
            geometry = (image.GetSize(), image.GetSpacing(), image.GetOrigin())
            digest.update(repr((geometry, image.GetDirection())).encode())
            digest.update(sitk.GetArrayViewFromImage(image).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class PairSet:
    """A row group of the table. error: the figure is an error in mm, else a Dice overlap."""

    name: str
    title: str
    make: Callable[[Path, Path], Iterator[Pair]]
    error: bool = False

    @property
    def figure(self) -> str:
        return "error, mm" if self.error else "Dice"


def _brains(data: Path, folder: Path) -> Iterator[Pair]:
    for seed, name in enumerate(BRAINS, start=1):
        image, labels = rendered(data / "brain_label_maps" / f"{name}.nii.gz", seed)
        _write(image, str(folder / f"{name}.nii.gz"))
        _write(labels, str(folder / f"{name}-labels.nii.gz"))
    yield from _among(folder, BRAINS, STRUCTURES)


def _lungs(data: Path, folder: Path) -> Iterator[Pair]:
    for name in LUNGS:
        source = data / "lung_mr_lobes"
        _copy(source / f"{name}.nii.gz", source / f"{name}_seg.nii.gz", folder, name)
    yield from _among(folder, LUNGS, (1, 2, 3, 4, 5))


def _slabs(data: Path, folder: Path) -> Iterator[Pair]:
    for name in SLABS:
        source = data / "brain_t1_slab_tissues"
        _copy(source / f"t1_{name}.nii.gz", source / f"seg_{name}.nii.gz", folder, name)
    yield from _among(folder, SLABS, (1, 2, 3, 4))


def _ct(data: Path, folder: Path) -> Iterator[Pair]:
    ct = sitk.ReadImage(str(data / "ct_abdomen" / "ct.nii.gz"))
    for seed in CT_DRAWS:
        fixed, moving, fixed_points, moving_points = bent_pair(ct, seed)
        files = [
            folder / f"{seed}-{end}" for end in ("fixed.nii.gz", "moving.nii.gz", "points.npz")
        ]
        _write(fixed, str(files[0]))
        _write(moving, str(files[1]))
        np.savez(files[2], fixed=fixed_points, moving=moving_points)
        yield Pair(f"draw {seed}", files[0], files[1], points=files[2])


def _copy(image: Path, labels: Path, folder: Path, name: str) -> None:
    """Through ITK, so that nobody has to choose between two geometries of one header."""
    _write(sitk.ReadImage(str(image)), str(folder / f"{name}.nii.gz"))
    integer = sitk.Cast(sitk.ReadImage(str(labels)), sitk.sitkUInt8)
    _write(integer, str(folder / f"{name}-labels.nii.gz"))


def _write(image: sitk.Image, path: str) -> None:
    """Whole or not at all: another run may be reading the same pair."""
    part = f"{path.removesuffix('.nii.gz')}.{os.getpid()}.nii.gz"
    sitk.WriteImage(image, part)
    os.replace(part, path)


def _among(folder: Path, names: tuple[str, ...], labels: tuple[int, ...]) -> Iterator[Pair]:
    """All ordered pairs, those of different fixed images first, so that few are a fair sample."""
    ordered = sorted(itertools.permutations(range(len(names)), 2), key=lambda p: (p[1] - p[0]) % 3)
    for a, b in ordered:
        files = [folder / f"{names[k]}{end}.nii.gz" for end in ("", "-labels") for k in (a, b)]
        yield Pair(f"{names[a]} {names[b]}", *files, labels)


SETS = {
    s.name: s
    for s in (
        PairSet("brains", "Brains: T1-like renderings of three heads, 30 structures", _brains),
        PairSet("lungs", "Lungs: MR of three people, five lobes", _lungs),
        PairSet("slabs", "Slabs: 18 slices of three people's T1, four tissues", _slabs),
        PairSet("ct", "CT: an abdomen, bent by a known map and moved", _ct, error=True),
    )
}

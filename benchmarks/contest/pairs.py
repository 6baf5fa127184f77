"""The pairs of each set, written as files that every contender reads."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.contest.bent import Scanner, bent_pair
from benchmarks.contest.brains import STRUCTURES, rendered
from benchmarks.contest.recoloured import as_mr, as_t2, foreground, thousand

BRAINS = ("subject10", "subject11", "subject12")
PEOPLE = Path(__file__).parents[2] / "examples" / "brains"
LUNGS = ("0004", "0006", "0007")
SLABS = ("1", "2", "3")
CT_DRAWS = (1, 2, 3)
MARGIN_MM = 100
# Settings are chosen on these pairs of every set; what the others say is the fair figure.
TUNING = frozenset(("subject10 subject11", "subject11 subject12", "subject12 subject10"))
TUNING |= {"0004 0006", "0006 0007", "0007 0004", "1 2", "2 3", "1 3"}
TUNING |= {"draw 1", "T1 A 1", "templates 1"}
MR = Scanner(outside=0)


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
    _render(data, folder, "")
    yield from _among(folder, BRAINS, STRUCTURES)


def _render(data: Path, folder: Path, end: str, contrast: str = "t1") -> None:
    for seed, name in enumerate(BRAINS, start=1):
        image, labels = rendered(data / "brain_label_maps" / f"{name}.nii.gz", seed, contrast)
        _write(image, str(folder / f"{name}{end}.nii.gz"))
        _write(labels, str(folder / f"{name}-labels.nii.gz"))


def _brains_in(contrast: str) -> Callable[[Path, Path], Iterator[Pair]]:
    """T1-like fixed images, and moving ones of other people in this contrast."""

    def make(data: Path, folder: Path) -> Iterator[Pair]:
        _render(data, folder, "")
        _render(data, folder, f"-{contrast}", contrast)
        for pair in _among(folder, BRAINS, STRUCTURES):
            yield _with_moving(pair, f"-{contrast}")

    return make


def _people(_data: Path, _folder: Path) -> Iterator[Pair]:
    """The real brains of two people, each onto the other; no setting is chosen on them."""
    for fixed, moving in (("fixed", "moving"), ("moving", "fixed")):
        files = [
            PEOPLE / f"{name}{end}.nii.gz" for end in ("", "_labels") for name in (fixed, moving)
        ]
        yield Pair(f"{moving} to {fixed}", *files, STRUCTURES)


def _people_as_t2(data: Path, folder: Path) -> Iterator[Pair]:
    for pair in _people(data, folder):
        recoloured = folder / f"{pair.moving.name.removesuffix('.nii.gz')}-t2.nii.gz"
        image = sitk.ReadImage(str(pair.moving), sitk.sitkFloat32)
        _write(as_t2(image), str(recoloured))
        yield replace(pair, moving=recoloured)


def _with_moving(pair: Pair, end: str) -> Pair:
    there = pair.moving.with_name(pair.moving.name.replace(".nii.gz", f"{end}.nii.gz"))
    return replace(pair, moving=there)


def _stripped(data: Path, folder: Path) -> Iterator[Pair]:
    """The whole head, and a brain alone."""
    for pair in _brains(data, folder):
        image, labels = (sitk.ReadImage(str(p)) for p in (pair.moving, pair.moving_labels))
        brain = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(labels > 0, [2, 2, 2]))
        brain = sitk.Cast(brain, image.GetPixelID())
        _write(image * brain, str(_with_moving(pair, "-stripped").moving))
        yield _with_moving(pair, "-stripped")


def _posed(scale: float, degrees: float) -> Callable[[Path, Path], Iterator[Pair]]:
    """The moving head made smaller or turned, by its header: its voxels stay as they are."""

    def make(data: Path, folder: Path) -> Iterator[Pair]:
        for pair in _brains(data, folder):
            files = {}
            for role in ("moving", "moving_labels"):
                image = sitk.ReadImage(str(getattr(pair, role)))
                turn = sitk.Euler3DTransform((0, 0, 0), 0, 0, np.deg2rad(degrees)).GetMatrix()
                direction = np.reshape(turn, (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
                image.SetSpacing([s * scale for s in image.GetSpacing()])
                image.SetDirection(direction.ravel().tolist())
                files[role] = getattr(pair, role).with_name(f"posed-{getattr(pair, role).name}")
                _write(image, str(files[role]))
            yield replace(pair, **files)

    return make


def _in_margin(data: Path, folder: Path) -> Iterator[Pair]:
    """The moving head with 100 mm of nothing on one side of each axis."""
    for pair in _brains(data, folder):
        image = sitk.ReadImage(str(pair.moving))
        voxels = [round(MARGIN_MM / s) for s in image.GetSpacing()]
        there = _with_moving(pair, "-margin")
        _write(sitk.ConstantPad(image, voxels, [0] * 3, 0), str(there.moving))
        yield there


def _slabs_as_t2(data: Path, folder: Path) -> Iterator[Pair]:
    for pair in _slabs(data, folder):
        there = _with_moving(pair, "-t2")
        _write(as_t2(sitk.ReadImage(str(pair.moving))), str(there.moving))
        yield there


def _t1_as_t2(data: Path, folder: Path) -> Iterator[Pair]:
    """A real T1, and itself as a T2, bent."""
    for name in ("A", "B"):
        image = sitk.ReadImage(str(data / "brain_t1" / f"image_{name}.nii.gz"))
        yield from _bent(thousand(image), as_t2(image), foreground(image), folder, f"T1 {name}")


def _templates(data: Path, folder: Path) -> Iterator[Pair]:
    """A T1 template, and a T1-T2* template of the same space, bent."""
    source = data / "brain_contrasts"
    t1 = sitk.ReadImage(str(source / "ICBM2009asym.nii.gz"), sitk.sitkFloat32)
    other = sitk.ReadImage(str(source / "PD25-fusion-template-1mm.nii.gz"), sitk.sitkFloat32)
    other = sitk.Resample(other, t1, sitk.Transform(), sitk.sitkLinear)
    yield from _bent(thousand(t1), thousand(other), foreground(t1), folder, "templates", 2)


def _ct_as_mr(data: Path, folder: Path) -> Iterator[Pair]:
    ct = sitk.ReadImage(str(data / "ct_abdomen" / "ct.nii.gz"), sitk.sitkFloat32)
    for seed in CT_DRAWS:
        made = bent_pair(ct, seed, as_mr(ct), None, (Scanner(), MR))
        yield _with_points(folder, f"draw {seed}", *made)


def _bent(
    fixed: sitk.Image,
    other: sitk.Image,
    inside: sitk.Image,
    folder: Path,
    name: str,
    draws: int = 1,
) -> Iterator[Pair]:
    for seed in range(1, draws + 1):
        made = bent_pair(fixed, seed, other, inside, (MR, MR))
        yield _with_points(folder, f"{name} {seed}", *made)


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
        yield _with_points(folder, f"draw {seed}", *bent_pair(ct, seed))


def _with_points(
    folder: Path,
    name: str,
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_points: np.ndarray,
    moving_points: np.ndarray,
) -> Pair:
    stem = name.replace(" ", "-")
    files = [folder / f"{stem}-{end}" for end in ("fixed.nii.gz", "moving.nii.gz", "points.npz")]
    _write(fixed, str(files[0]))
    _write(moving, str(files[1]))
    np.savez(files[2], fixed=fixed_points, moving=moving_points)
    return Pair(name, files[0], files[1], points=files[2])


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
        PairSet("people", "Brains: real T1 of two people, 30 structures", _people),
        PairSet("lungs", "Lungs: MR of three people, five lobes", _lungs),
        PairSet("slabs", "Slabs: 18 slices of three people's T1, four tissues", _slabs),
        PairSet("ct", "CT: an abdomen, bent by a known map and moved", _ct, error=True),
        PairSet("t2", "Contrast: brains, T1-like against T2-like", _brains_in("t2")),
        PairSet("flair", "Contrast: brains, T1-like against FLAIR-like", _brains_in("flair")),
        PairSet("slabs-t2", "Contrast: slabs, the moving T1 recoloured as a T2", _slabs_as_t2),
        PairSet("people-t2", "Contrast: the same, the moving T1 recoloured as a T2", _people_as_t2),
        PairSet("t1-t2", "Contrast: a real T1, and itself as a T2, bent", _t1_as_t2, error=True),
        PairSet("templates", "Contrast: T1 and T1-T2* templates, bent", _templates, error=True),
        PairSet("ct-mr", "Contrast: a CT, and an MR-like view of it, bent", _ct_as_mr, error=True),
        PairSet("stripped", "Brains, the whole head against the brain alone", _stripped),
        PairSet("scale", "Brains, the moving head smaller by a fifth", _posed(0.8, 0)),
        PairSet("rotation", "Brains, the moving head turned by 15 degrees", _posed(1, 15)),
        PairSet("margin", "Brains, the moving head beside 100 mm of nothing", _in_margin),
    )
}

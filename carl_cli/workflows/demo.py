"""The demo: a pair as files, registered and scored: two real brains, or the phantom, whose true
deformation is known."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from carl_cli.geometry import Array, apply_affine
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.progress import Progress, silent
from carl_cli.report.record import ErrorSummary, RunRecord
from carl_cli.system import shipped
from carl_cli.transforms import DisplacementField, Transform, identity
from carl_cli.workflows.phantom import LABELS, PhantomPair, make_phantom

if TYPE_CHECKING:
    from carl_cli.registration.register import RegistrationOptions
    from carl_cli.weights.folder import Weights
    from carl_cli.workflows.request import CaseInputs, CaseOutputs


BRAINS = shipped("_brains", "examples/brains")
PAIR = ("fixed.nii.gz", "moving.nii.gz", "fixed_labels.nii.gz", "moving_labels.nii.gz")
SIDES = ("left ", "right ")


class DemoFiles(NamedTuple):
    """Paths in the folder of a demo: first the pair, then what is made of it."""

    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    label_names: Path
    warped: Path
    warped_labels: Path
    jacobian: Path
    match_spread: Path
    forward: Path
    inverse: Path
    picture: Path
    report: Path
    record: Path

    @classmethod
    def within(cls, folder: Path) -> DemoFiles:
        names = [*PAIR, "labels.tsv"]
        names += [f"{name}.nii.gz" for name in cls._fields[5:9]]
        names += ["forward.h5", "inverse.h5", "demo.png", "report.html", "record.json"]
        return cls(*(folder / name for name in names))

    @property
    def truth(self) -> Path:
        """The true transform: of the phantom alone."""
        return self.fixed.with_name("truth.nii.gz")


@dataclass(frozen=True)
class DemoScores:
    """Before is the pair as the scanner left it: both images in their own physical space.

    dice: structure → overlap on the fixed grid before and after, the mean of left and right ones.
    record: of the run, as `carl register --json` has it. errors_mm: distance to the true position
    before and after; None where no truth is known.
    """

    dice: dict[str, tuple[float, float]]
    record: RunRecord
    errors_mm: tuple[ErrorSummary, ErrorSummary] | None


def run_demo(
    folder: Path,
    weights: Weights,
    options: RegistrationOptions,
    phantom_seed: int | None = None,
    threads: int = 1,
    progress: Progress = silent,
) -> DemoScores:
    """Write the pair, the phantom if there is a seed for it, else the brains; register the files as
    `carl register` does, and score them."""
    from carl_cli.workflows.register import run_case
    from carl_cli.workflows.request import RunSettings

    files = DemoFiles.within(folder)
    phantom = _written(files, phantom_seed, progress)
    settings = RunSettings(device=weights.device, threads=threads, seed=phantom_seed or 0)
    inputs, outputs = _case(files, match_spread=weights.config.model.coarse == "attention")
    record = run_case(inputs, outputs, weights, options, settings, progress)
    forward = read_transform(files.forward)
    fixed, labels = read_image(files.fixed), read_image(files.moving_labels)
    warped = resample(labels, fixed.grid, forward, interpolator="genericlabel")
    write_image(files.warped_labels, warped)
    return DemoScores(dice_by_structure(record), record, _errors_mm(phantom, forward))


def _written(files: DemoFiles, seed: int | None, progress: Progress) -> PhantomPair | None:
    """The phantom, where there is a seed for it, once the pair is written."""
    if seed is None:
        copy_brains(files)
        return None
    progress("synthesis", 0.0)
    pair = make_phantom(seed)
    write_phantom(pair, files)
    progress("synthesis", 1.0)
    return pair


def copy_brains(files: DemoFiles) -> None:
    """The pair of brains of the package, its labels and their names."""
    for path in files[:5]:
        with atomic_path(path) as temporary:
            shutil.copyfile(BRAINS / path.name, temporary)


def _errors_mm(
    pair: PhantomPair | None, forward: Transform
) -> tuple[ErrorSummary, ErrorSummary] | None:
    if pair is None:
        return None
    before, after = (ErrorSummary.of(true_errors_mm(pair, t)) for t in (identity(3), forward))
    return before, after


def _case(files: DemoFiles, match_spread: bool) -> tuple[CaseInputs, CaseOutputs]:
    from carl_cli.workflows.request import CaseInputs, CaseOutputs

    inputs = CaseInputs(
        files.fixed,
        files.moving,
        fixed_seg=files.fixed_labels,
        moving_seg=files.moving_labels,
        label_names=files.label_names,
    )
    outputs = CaseOutputs(
        forward=files.forward,
        inverse=files.inverse,
        warped=files.warped,
        jacobian=files.jacobian,
        match_spread=files.match_spread if match_spread else None,
        figure=files.picture,
        report=files.report,
        json=files.record,
    )
    return inputs, outputs


def dice_by_structure(record: RunRecord) -> dict[str, tuple[float, float]]:
    """Structure → Dice before and after, the mean of a left and a right one."""
    found: dict[str, list[tuple[float, float]]] = {}
    for s in record.metrics.structures:
        name = s.name.removeprefix(SIDES[0]).removeprefix(SIDES[1])
        found.setdefault(name, []).append((s.dice_before or 0.0, s.dice or 0.0))
    return {name: tuple(np.mean(dice, axis=0)) for name, dice in found.items()}


def write_phantom(pair: PhantomPair, files: DemoFiles) -> None:
    """Images, label maps with their names, and the true transform as a displacement field on the
    fixed grid."""
    images = (pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels)
    for path, image in zip(files[:4], images, strict=True):
        write_image(path, image)
    lines = ["index\tname", *(f"{label}\t{name}" for label, name in LABELS.items())]
    with atomic_path(files.label_names) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    points = pair.fixed.grid.points_mm()
    displacement_mm = (pair.truth(points) - points).astype(np.float32)
    write_transform(files.truth, DisplacementField(pair.fixed.grid, displacement_mm))


def true_errors_mm(pair: PhantomPair, transform: Transform) -> Array:
    """(N,) distance between T(x) and the truth, at every second voxel centre x of the body.

    Left out are points whose true partner the moving image does not show.
    """
    every_second = (slice(None, None, 2),) * 3
    body = np.greater(pair.fixed_labels.array[every_second], 0)
    points = pair.fixed.grid.points_mm()[every_second][body]
    partners = pair.truth(points)
    index = apply_affine(pair.moving.grid.lps_to_index, partners)
    shown = np.all((index >= 0) & (index <= np.array(pair.moving.grid.size_xyz) - 1), axis=-1)
    return np.linalg.norm(transform(points[shown]) - partners[shown], axis=-1)

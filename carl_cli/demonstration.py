"""The demo: a phantom pair as files, registered, and compared with what is true about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Array, apply_affine
from carl_cli.io.image import Image, read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transform import read_transform, write_transform
from carl_cli.phantom import LABELS, PhantomPair, make_phantom
from carl_cli.progress import Progress, silent
from carl_cli.report.figure import save_figure
from carl_cli.report.record import Spread
from carl_cli.transform import DisplacementField, Transform, identity, invert, jacobian_determinant

if TYPE_CHECKING:
    from carl_cli.registration import Registration, RegistrationOptions
    from carl_cli.weights import Weights


class DemoFiles(NamedTuple):
    """Paths in the folder of a demo: first what is synthesised, then what is made of it."""

    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    truth: Path
    warped: Path
    warped_labels: Path
    jacobian: Path
    forward: Path
    inverse: Path
    picture: Path

    @classmethod
    def within(cls, folder: Path) -> DemoFiles:
        names = [f"{name}.nii.gz" for name in cls._fields[:8]]
        return cls(*(folder / name for name in [*names, "forward.h5", "inverse.h5", "demo.png"]))


@dataclass(frozen=True)
class DemoScores:
    """Before is the pair as the scanner left it: both images in their own physical space.

    dice_before, dice: organ → overlap on the fixed grid. errors: distance to the true position.
    """

    dice_before: dict[str, float]
    dice: dict[str, float]
    error_before_mm: Spread
    error_mm: Spread


def run_demo(
    folder: Path,
    weights: Weights,
    options: RegistrationOptions,
    seed: int = 0,
    progress: Progress = silent,
) -> DemoScores:
    """Synthesise a pair, write it, read it back, register it, write all outputs, score them."""
    from carl_cli.registration import register

    files = DemoFiles.within(folder)
    progress("synthesis", 0.0)
    pair = make_phantom(seed)
    write_phantom(pair, files)
    progress("synthesis", 1.0)
    fixed, moving = read_image(files.fixed), read_image(files.moving)
    result = register(fixed, moving, weights, options, progress)
    progress("outputs", 0.0)
    write_outputs(files, fixed, moving, result)
    progress("outputs", 1.0)
    return score(pair, files)


def write_outputs(files: DemoFiles, fixed: Image, moving: Image, result: Registration) -> None:
    """Both transforms, the warped image and labels, the Jacobian determinant, the picture."""
    write_transform(files.forward, result.forward)
    write_transform(files.inverse, invert(result.forward, moving.grid)[0])
    warped = resample(moving, fixed.grid, result.forward, background=float(moving.array.min()))
    write_image(files.warped, warped)
    labels = read_image(files.moving_labels)
    write_image(
        files.warped_labels,
        resample(labels, fixed.grid, result.forward, interpolator="genericlabel"),
    )
    determinant = jacobian_determinant(result.forward, fixed.grid)
    jacobian = Image(determinant.astype(np.float32), fixed.grid)
    write_image(files.jacobian, jacobian)
    save_figure(files.picture, fixed, moving, warped, result.forward, jacobian=jacobian)


def score(pair: PhantomPair, files: DemoFiles) -> DemoScores:
    """Scores of the files that were written, not of what was in memory."""
    fixed, moving = pair.fixed_labels, pair.moving_labels
    unmoved = resample(moving, fixed.grid, interpolator="nearest")
    errors_mm = [true_errors_mm(pair, t) for t in (identity(3), read_transform(files.forward))]
    return DemoScores(
        dice_before=organ_dice(fixed, unmoved),
        dice=organ_dice(fixed, read_image(files.warped_labels)),
        error_before_mm=Spread.of(errors_mm[0]),
        error_mm=Spread.of(errors_mm[1]),
    )


def write_phantom(pair: PhantomPair, files: DemoFiles) -> None:
    """Images, label maps, and the true transform as a displacement field on the fixed grid."""
    images = (pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels)
    for path, image in zip(files[:4], images, strict=True):
        write_image(path, image)
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


def organ_dice(fixed: Image, moved: Image) -> dict[str, float]:
    """Organ → Dice overlap of two label maps on one grid; the rest of the body is left out."""
    organs = {label: name for label, name in LABELS.items() if name != "body"}
    return {name: _dice(fixed.array == k, moved.array == k) for k, name in organs.items()}


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")

"""The phantom pair as files, and how far a transform is from its truth."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from carl_cli.geometry import Array, apply_affine
from carl_cli.io.image import write_image
from carl_cli.io.transform import write_transform
from carl_cli.phantom import PhantomPair
from carl_cli.transform import DisplacementField, Transform


class PhantomFiles(NamedTuple):
    """Paths in the folder of a demo."""

    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    truth: Path

    @classmethod
    def within(cls, folder: Path) -> PhantomFiles:
        return cls(*(folder / f"{name}.nii.gz" for name in cls._fields))


def write_phantom(pair: PhantomPair, files: PhantomFiles) -> None:
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
    body = pair.fixed_labels.array[every_second] > 0
    points = pair.fixed.grid.points_mm()[every_second][body]
    partners = pair.truth(points)
    index = apply_affine(pair.moving.grid.lps_to_index, partners)
    shown = np.all((index >= 0) & (index <= np.array(pair.moving.grid.size_xyz) - 1), axis=-1)
    return np.linalg.norm(transform(points[shown]) - partners[shown], axis=-1)

"""`--io --io-scope field`: from the identity to an overlap that SimpleITK confirms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.registration.diffeomorphic import SCALES
from tests.workflows.conftest import PairFiles, Register


@pytest.fixture(scope="module")
def folder(
    register: Register, identity_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Results of a pair that was aligned by its moments first, twice with the same seed."""
    folder = tmp_path_factory.mktemp("field")
    io = ("--init", "moments", "--io", "--io-scope", "field", "--io-steps", 10)
    for name in ("once", "again"):
        files = ("-o", folder / f"{name}.h5", "-O", folder / f"{name}_back.h5")
        register(identity_weights, *io, *files, "--json", folder / f"{name}.json")
    register(identity_weights, "--init", "moments", "-o", folder / "start.h5")
    return folder


def _dice(pair: PairFiles, transform: Path) -> float:
    fixed, moving = (sitk.ReadImage(str(p)) for p in (pair.fixed_seg, pair.moving_seg))
    tx = sitk.ReadTransform(str(transform))
    warped = sitk.Resample(moving, fixed, tx, sitk.sitkNearestNeighbor)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(fixed, warped)
    return float(overlap.GetMeanOverlap())


def test_structures_overlap_better(folder: Path, pair: PairFiles) -> None:
    before, after = (_dice(pair, folder / name) for name in ("start.h5", "once.h5"))
    assert after > before + 0.03


def _inside(image: sitk.Image, point: tuple[float, ...]) -> bool:
    index = image.TransformPhysicalPointToContinuousIndex(point)
    return all(1 <= i <= n - 2 for i, n in zip(index, image.GetSize(), strict=True))


def test_the_way_back_is_the_inverse(folder: Path, pair: PairFiles) -> None:
    """In the body, where the moving image shows it too, to a tenth of a voxel."""
    there = sitk.ReadTransform(str(folder / "once.h5"))
    backward = sitk.ReadTransform(str(folder / "once_back.h5"))
    fixed, moving = (sitk.ReadImage(str(path)) for path in (pair.fixed_seg, pair.moving_seg))
    body = np.argwhere(sitk.GetArrayFromImage(fixed) > 0)[::20]
    points = [fixed.TransformIndexToPhysicalPoint([int(i) for i in p[::-1]]) for p in body]
    ways = [(p, there.TransformPoint(p)) for p in points]
    missed = [
        np.linalg.norm(np.subtract(backward.TransformPoint(q), p))
        for p, q in ways
        if _inside(moving, q)
    ]
    assert len(missed) > 50
    assert np.percentile(missed, 99) < 0.1 * fixed.GetSpacing()[0]


def test_the_record_names_what_was_used(folder: Path) -> None:
    values = json.loads((folder / "once.json").read_text())
    options = values["options"]
    assert (options["io_scope"], options["io_steps"], options["io_smoothing"]) == ("field", 10, 2.0)
    assert "io_lr" not in options
    losses = values["io_loss"]
    assert len(SCALES) <= len(losses) <= 10 * sum(scale.steps for scale in SCALES)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.02


def test_the_same_bytes_again(folder: Path) -> None:
    for name in ("{}.h5", "{}_back.h5"):
        first, second = ((folder / name.format(n)).read_bytes() for n in ("once", "again"))
        assert first == second

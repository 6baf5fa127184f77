"""`carl demo` from end to end, with a small untrained network: what it says is what it wrote."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.workflows import demo as demonstration
from carl_cli.workflows.demo import BRAINS, DemoFiles
from carl_cli.workflows.phantom import LABELS, make_phantom
from tests.cli.conftest import Carl
from tests.cli.weights_folder import untrained_weights


@pytest.fixture(autouse=True)
def small_phantom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstration, "make_phantom", partial(make_phantom, voxel_mm=9.0))


def test_the_phantom(carl: Carl, tmp_path: Path) -> None:
    weights = untrained_weights(tmp_path / "weights")
    folder = tmp_path / "demo"
    outcome = carl(
        "demo", "--phantom", "--seed", 2, "-o", folder, "--weights", weights, "--threads", 1
    )
    assert outcome.code == 0, outcome.err
    files = DemoFiles.within(folder)
    assert sorted(folder.iterdir()) == sorted([*files, files.truth])
    assert files.picture.read_bytes().startswith(b"\x89PNG")
    assert f"picture: {files.picture}" in outcome.out
    assert f"report: {files.report}" in outcome.out
    assert "<html" in files.report.read_text()[:500]
    metrics = json.loads(files.record.read_text())["metrics"]
    assert f"folded, % {metrics['folded_percent']:>32.3f}" in outcome.out

    fixed = np.asarray(nibabel.load(files.fixed_labels).dataobj)
    warped = sitk.GetArrayFromImage(
        sitk.Resample(
            sitk.ReadImage(str(files.moving_labels)),
            sitk.ReadImage(str(files.fixed_labels)),
            sitk.ReadTransform(str(files.forward)),
            sitk.sitkNearestNeighbor,
        )
    ).T
    rows = dict(re.findall(r"^([a-z][a-z ]*?) +[\d.]+ +([\d.]+|nan)$", outcome.out, re.MULTILINE))
    expected: dict[str, list[float]] = {}
    for label, organ in LABELS.items():
        overlap = np.sum((fixed == label) & (warped == label))
        dice = 2 * overlap / (np.sum(fixed == label) + np.sum(warped == label))
        expected.setdefault(re.sub("^(left|right) ", "", organ), []).append(dice)
    for structure, both in expected.items():
        assert float(rows[structure]) == pytest.approx(np.mean(both), abs=6e-4), structure

    # The report counts the same labels, under the same names, and has the same warnings.
    page = files.report.read_text()
    tile = re.search(r"→ </small>([\d.]+)</b><span>mean Dice", page)
    mean = re.search(r"^mean of \d+ +[\d.]+ +([\d.]+)\n\n", outcome.out, re.MULTILINE)
    assert tile
    assert mean
    assert tile[1] == mean[1]
    assert all(f"</svg>{organ} " in page for organ in LABELS.values())
    warnings = json.loads(files.record.read_text())["warnings"]
    assert warnings
    assert all(f"warning: {text}" in outcome.err for text in warnings)

    field = np.asarray(nibabel.load(files.truth).dataobj)[:, :, :, 0]
    expected_mm = np.linalg.norm(field, axis=-1)[fixed > 0].mean()
    printed = re.search(r"error, mm.*\nmean +([\d.]+)", outcome.out)
    assert printed is not None
    # The demo leaves out what the moving image does not show, here a few per cent.
    assert float(printed[1]) == pytest.approx(expected_mm, abs=1.0)

    again = carl("demo", "--phantom", "-o", folder, "--weights", weights)
    assert again.code == 7
    assert "--overwrite" in again.err


def test_two_brains(carl: Carl, tmp_path: Path) -> None:
    """Files of the package, and no truth; a seed has nothing to draw."""
    weights, folder = untrained_weights(tmp_path / "weights"), tmp_path / "demo"
    outcome = carl("demo", "-o", folder, "--weights", weights, "--threads", 1)
    assert outcome.code == 0, outcome.err
    files = DemoFiles.within(folder)
    assert sorted(folder.iterdir()) == sorted(files)
    assert files.moving.read_bytes() == (BRAINS / "moving.nii.gz").read_bytes()
    fixed, moving = (sitk.ReadImage(str(path)) for path in files[2:4])
    laid = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkNearestNeighbor)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(laid, fixed)
    before = np.mean([overlap.GetDiceCoefficient(side) for side in (17, 53)])
    assert re.search(rf"^hippocampus +{before:.3f} ", outcome.out, re.MULTILINE)
    assert "mean of 30" in outcome.out
    assert "error, mm" not in outcome.out
    refused = carl("demo", "--seed", 2, "-o", tmp_path / "other")
    assert refused.code == 2
    assert "--seed is of the phantom alone" in refused.err

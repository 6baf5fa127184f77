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
from carl_cli.workflows.demo import DemoFiles
from carl_cli.workflows.phantom import LABELS, make_phantom
from tests.cli.conftest import Carl
from tests.cli.weights_folder import untrained_weights


@pytest.fixture(autouse=True)
def small_phantom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstration, "make_phantom", partial(make_phantom, voxel_mm=9.0))


def test_the_demo(carl: Carl, tmp_path: Path) -> None:
    weights = untrained_weights(tmp_path / "weights")
    folder = tmp_path / "demo"
    outcome = carl("demo", "-o", folder, "--weights", weights, "--threads", 1, "--seed", 2)
    assert outcome.code == 0, outcome.err
    files = DemoFiles.within(folder)
    assert sorted(folder.iterdir()) == sorted(files)
    assert files.picture.read_bytes().startswith(b"\x89PNG")
    assert f"picture: {files.picture}" in outcome.out
    assert f"report: {files.report}" in outcome.out
    assert "<html" in files.report.read_text()[:500]
    metrics = json.loads(files.record.read_text())["metrics"]
    assert f"folded, % {metrics['folded_percent']:>24.3f}" in outcome.out

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
    for label, organ in LABELS.items():
        overlap = np.sum((fixed == label) & (warped == label))
        dice = 2 * overlap / (np.sum(fixed == label) + np.sum(warped == label))
        assert float(rows[organ]) == pytest.approx(dice, abs=6e-4), organ

    # The report counts the same labels, under the same names, and has the same warnings.
    page = files.report.read_text()
    tile = re.search(r"→ </small>([\d.]+)</b><span>mean Dice", page)
    mean = re.search(r"^mean +[\d.]+ +([\d.]+)\n\n", outcome.out, re.MULTILINE)
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

    again = carl("demo", "-o", folder, "--weights", weights)
    assert again.code == 7
    assert "--overwrite" in again.err

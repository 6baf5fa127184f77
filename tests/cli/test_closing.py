"""The last lines of a run: what was written, how long it took, what is doubtful."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from carl_cli.cli.app import main
from carl_cli.workflows.demo import DemoFiles, write_phantom
from carl_cli.workflows.phantom import make_phantom
from tests.cli.weights_folder import untrained_weights


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair whose fixed image has a sform 10 mm beside its qform, and a small network."""
    folder = tmp_path_factory.mktemp("study")
    write_phantom(make_phantom(voxel_mm=12.0), DemoFiles.within(folder))
    image = nibabel.load(folder / "fixed.nii.gz")
    aside = image.affine.copy()
    aside[0, 3] += 10
    both = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine)
    both.set_qform(image.affine, 1)
    both.set_sform(aside, 1)
    nibabel.save(both, folder / "aside.nii.gz")
    untrained_weights(folder / "weights")
    return folder


def test_each_file_has_a_line_that_says_what_it_is(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["register", study / "aside.nii.gz", study / "moving.nii.gz"]
    words += ["--weights", study / "weights", "-o", tmp_path / "T.h5", "-w", tmp_path / "w.nii.gz"]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code
    said = capsys.readouterr()
    lines = said.err.splitlines()
    start = lines.index(
        f"{tmp_path / 'T.h5'}: transform: brings the moving image onto the fixed one"
    )
    assert lines[start + 1] == f"{tmp_path / 'w.nii.gz'}: moving image on the fixed grid"
    closing = re.fullmatch(r"\d+ s, (no warning|(\d+) warnings?:)", lines[start + 2])
    assert closing
    assert len(lines[start + 3 :]) == int(closing[2] or 0)
    assert all(line.startswith("warning: ") for line in lines[start + 3 :])
    assert said.err.count("qform and sform place the image up to 10 mm apart") == 1
    assert said.out.startswith("lncc ")


def test_a_batch_names_its_page_and_warns_once_of_a_file(study: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    row = f"{study / 'aside.nii.gz'},{study / 'moving.nii.gz'}"
    table.write_text(f"id,fixed,moving\na,{row}\nb,{row}\n")
    command = [sys.executable, "-m", "carl_cli.cli.app", "batch", str(table)]
    command += ["--out-dir", str(tmp_path / "out"), "--weights", str(study / "weights")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert f"all cases, outliers first: {tmp_path / 'out' / 'index.html'}" in done.stderr
    assert done.stderr.count("qform and sform place the image up to 10 mm apart") == 1

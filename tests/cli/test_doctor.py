"""`carl doctor` tells what is there, and fails when something is amiss."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from carl_cli.transforms import DisplacementField
from carl_cli.weights.folder import read_config
from carl_cli.weights.locate import embedded_folder
from carl_cli.weights.registry import DEFAULT
from carl_cli.workflows import doctor as diagnosis
from tests.cli.conftest import Carl
from tests.cli.weights_folder import untrained_weights


def findings(out: str) -> dict[str, str]:
    """Name → rest of the line; names are padded to a column of 24."""
    return {line[:24].strip(): line[24:].strip() for line in out.splitlines()}


def test_a_sound_installation(carl: Carl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setattr(diagnosis, "WRITE_MIB", 2)
    outcome = carl("doctor", "--folder", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    found = findings(outcome.out)
    assert found["SimpleITK"] == version("SimpleITK")
    assert found["torch"] == version("torch")
    assert found["threads"].startswith("3 of ")
    assert "SLURM_CPUS_PER_TASK=3" in found["threads"]
    digest = hashlib.sha256((embedded_folder(DEFAULT) / "model.safetensors").read_bytes())
    assert digest.hexdigest()[:12] in found["weights carl-base"]
    assert "3D convolution right on cpu" in found["self-test, devices"]
    assert "carl-base maps noise as stated, to " in found["self-test, network"]
    assert "--log-file log.txt" in found["for a bug report"]
    assert ".h5 and .nii.gz read back" in found["self-test, transforms"]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(carl: Carl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "PACKAGES", ("numpy", "no-such-package"))
    outcome = carl("doctor")
    assert outcome.code == 1
    assert findings(outcome.out)["no-such-package"] == "missing  ← pip install no-such-package"
    assert outcome.err.startswith("error: 1 of these findings")


def test_one_fault_does_not_hide_the_next(carl: Carl, tmp_path: Path) -> None:
    outcome = carl("doctor", "--folder", tmp_path / "absent")
    assert outcome.code == 1
    findings = outcome.out.splitlines()
    faulty = [line for line in findings if "FileNotFoundError" in line]
    assert len(faulty) == 1
    assert "←" not in "".join(findings[findings.index(faulty[0]) + 1 :])


def test_a_flipped_axis_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test of transforms notices a reader that takes LPS for RAS."""

    def flipped(grid, displacement):  # type: ignore[no-untyped-def]
        return DisplacementField(grid, displacement * np.float32([-1, -1, 1]))

    monkeypatch.setattr("carl_cli.transforms.DisplacementField", flipped)
    finding = diagnosis._attempt("transforms", diagnosis._transform_test)
    assert finding.fault == "the image libraries disagree"
    assert "1.2e+01 mm" in finding.found


def test_damaged_weights_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = untrained_weights(tmp_path / "weights")
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    monkeypatch.setattr(diagnosis, "embedded_folder", lambda _: folder)
    finding = diagnosis._attempt("weights", lambda: diagnosis._embedded_weights("carl-base"))
    assert "is damaged: SHA-256" in finding.fault


def test_a_network_that_maps_otherwise_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = read_config(embedded_folder(DEFAULT)).self_test
    moved = (stated[0] + 0.01, *stated[1:])
    monkeypatch.setattr("carl_cli.weights.selftest.figures", lambda *_: moved)
    finding = diagnosis._attempt("network", diagnosis._network_test)
    assert "1.0e-02 of the image away" in finding.fault

"""What may be given more than once, and what is refused then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.cli.conftest import Carl
from tests.workflows.conftest import PairFiles, Register


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", "1", "--seed", "2"], "--seed was given 2 times"),
        (["-o", "a.h5", "--output", "b.h5"], "was given 2 times"),
        (["--io", "--no-io"], "--io --no-io was given 2 times"),
        (["-i", "[t.mat,7]"], "unknown mark '7'"),
    ],
)
def test_an_option_that_takes_one_value(
    carl: Carl, pair: PairFiles, identity_weights: Path, tmp_path: Path,
    options: list[str], named: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = carl("register", *pair[:2], "-w", "w.nii.gz", "--weights", identity_weights, *options)
    assert said.code == 2
    assert named in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_switch_may_be_repeated(carl: Carl) -> None:
    said = carl("warp", "absent.nii.gz", "-o", "w.nii.gz", "-q", "-q")
    assert said.code == 3


def test_initial_transforms_are_chained_as_by_ants(
    register: Register,
    identity_weights: Path,
    pair: PairFiles,
    tmp_path: Path,
) -> None:
    """A network that finds nothing gives T(x) = B⁻¹(A(x)) for `-i A -i [B,1]`, by SimpleITK."""
    a, b = sitk.AffineTransform(3), sitk.AffineTransform(3)
    a.Rotate(0, 1, 0.1)
    a.SetTranslation((4.0, -3.0, 6.0))
    b.Scale((1.1, 0.95, 1.0))
    b.SetTranslation((-5.0, 2.0, 1.0))
    for transform, name in ((a, "a.mat"), (b, "b.tfm")):
        sitk.WriteTransform(transform, str(tmp_path / name))
    items = ("-i", tmp_path / "a.mat", "-i", "identity", "-i", f"[{tmp_path / 'b.tfm'},1]")
    register(identity_weights, *items, "-o", tmp_path / "t.h5")
    found = sitk.ReadTransform(str(tmp_path / "t.h5"))
    expected = sitk.CompositeTransform([b.GetInverse(), a])
    for point in np.random.default_rng(0).uniform(-60, 60, (10, 3)).tolist():
        np.testing.assert_allclose(
            found.TransformPoint(point), expected.TransformPoint(point), atol=2e-3
        )
    assert np.linalg.norm(np.subtract(expected.TransformPoint((9.0, 9, 9)), (9, 9, 9))) > 3

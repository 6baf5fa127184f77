"""--regularity: the standard deviation of log J, by SimpleITK, falls from soft to stiff."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.registration.instance import InstanceOptions
from carl_cli.registration.maps import _rule, _stiffened, stiffness
from carl_cli.weights.folder import AlignmentRule
from tests.cli.conftest import Carl
from tests.workflows.conftest import PairFiles, Register

IO = ("--io", "--io-scope", "field", "--io-steps", 10)
SETTINGS = (0, 0.5, 1)


def sd_of_log_jacobian(path: Path, fixed: Path) -> float:
    """Over the middle of the fixed image."""
    grid = sitk.ReadImage(str(fixed))
    geometry = (grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection())
    transform = sitk.ReadTransform(str(path))
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *geometry)
    values = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
    inner = values[tuple(slice(n // 8, -(n // 8) or None) for n in values.shape)]
    return float(np.log(np.maximum(inner, 1e-3)).std())


def found(
    register: Register, weights: Path, folder: Path, fixed: Path, setting: float, *options: object
) -> float:
    out = folder / f"{setting}.h5"
    register(weights, "-o", out, "--regularity", setting, *options)
    return sd_of_log_jacobian(out, fixed)


@pytest.fixture(scope="module")
def aligning_weights(smooth_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network, and alignment after it."""
    folder = tmp_path_factory.mktemp("aligning")
    for file in smooth_weights.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["alignment"] = AlignmentRule(steps=10).model_dump()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_middle_is_what_it_was() -> None:
    """Every number to the last bit."""
    assert [stiffness(r) for r in (0, 0.5, 0.75, 1)] == [0.7, 1, 2, 4]
    options, rule = InstanceOptions(smoothing=1.7, regularisation=1.3), AlignmentRule()
    assert _stiffened(options, stiffness(0.5)) == options
    assert _rule(rule, stiffness(0.5), rough=False) == rule


def test_a_rough_map_takes_a_third_of_the_steps() -> None:
    assert _rule(AlignmentRule(steps=24), 1, rough=True) == AlignmentRule(steps=8)
    assert _rule(AlignmentRule(steps=1), 1, rough=True).steps == 1


def test_a_fit_is_smoother(
    register: Register, smooth_weights: Path, pair: PairFiles, tmp_path: Path
) -> None:
    given = (register, smooth_weights, tmp_path, pair.fixed)
    soft, usual, stiff = (found(*given, r, *IO) for r in SETTINGS)
    assert soft > 1.2 * usual > 1.3 * stiff


def test_an_alignment_is_smoother(
    register: Register, aligning_weights: Path, pair: PairFiles, tmp_path: Path
) -> None:
    given = (register, aligning_weights, tmp_path, pair.fixed)
    soft, usual, stiff = (found(*given, r) for r in SETTINGS)
    assert soft > 1.2 * usual > 1.3 * stiff


def test_a_network_alone_is_smoother(
    register: Register, folding_weights: Path, pair: PairFiles, tmp_path: Path, carl: Carl
) -> None:
    """And can't be made softer."""
    given = (register, folding_weights, tmp_path, pair.fixed)
    usual, stiffer, stiff = (found(*given, r) for r in (0.5, 0.75, 1))
    assert usual > 1.1 * stiffer > 1.2 * stiff
    line = ("register", *pair[:2], "-o", tmp_path / "t.h5", "--weights", folding_weights)
    refused = carl(*line, "--regularity", 0.2)
    assert refused.code == 2
    assert "--regularity 0.2 was given, but the map of folding is taken as it is" in refused.err
    linear = carl(*line, "--regularity", 0.8, "--transform", "rigid")
    assert linear.code == 2
    assert "--regularity 0.8 was given with --transform rigid" in linear.err


@pytest.mark.slow
@pytest.mark.parametrize("io", [(), ("--io",)], ids=["aligned", "fitted"])
def test_carl_base(
    register: Register, pair: PairFiles, tmp_path: Path, io: tuple[str, ...]
) -> None:
    """Between 0 and 0.5 differences are small: at 0.25 with --io, 0.141 is no more than 0.142."""
    given = (register, Path("carl-base"), tmp_path, pair.fixed)
    spreads = [found(*given, r, *io) for r in (0, 0.5, 0.75, 1)]
    print(f"SD of log J {io}: {np.round(spreads, 3)}")
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 1.5 * spreads[-1]

"""Numbers of the reference implementation, for weights drawn by a rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from carl_cli.model.fields import identity, jacobian_determinant, voxels_per_unit
from carl_cli.model.regularity import diffusion
from carl_cli.model.similarity import lncc, mind_ssc, ncc, squared_lncc
from tests.model.reference import CONFIGS, drawn_network, reference_outputs


@pytest.mark.parametrize("name", CONFIGS)
def test_maps_agree_with_the_reference(name: str, parity_dir: Path) -> None:
    expected = reference_outputs(name, parity_dir)
    fixed, moving = (
        expected["fixed"].squeeze()[None, None],
        expected["moving"].squeeze()[None, None],
    )
    shape = fixed.shape[2:]
    with torch.inference_mode():
        forward, backward = drawn_network(name, parity_dir).both_directions(fixed, moving)
        points = identity(shape, align_corners=True) * 0.9 + 0.07
        found = {
            "phi_AB": forward.on_grid(shape),
            "phi_BA": backward.on_grid(shape),
            "phi_AB_of_phi_BA_of_points": forward(backward(points)),
        }
    step = 2 if name == "carl3d" else 4  # of the voxels that are stored, in 3D
    stored = (0, slice(None), *[slice(None, None, step)] * 3) if len(shape) == 3 else 0
    for key, value in found.items():
        gap = (value[stored] - expected[key].squeeze()).abs().max()
        assert gap < 1e-4, f"{key} differs by {gap:.2e}"


def test_one_direction_equals_both(parity_dir: Path) -> None:
    expected = reference_outputs("carl2d", parity_dir)
    fixed, moving = (
        expected["fixed"].squeeze()[None, None],
        expected["moving"].squeeze()[None, None],
    )
    network = drawn_network("carl2d", parity_dir)
    with torch.inference_mode():
        forward, backward = network.both_directions(fixed, moving)
        shape = fixed.shape[2:]
        torch.testing.assert_close(network(fixed, moving).on_grid(shape), forward.on_grid(shape))
        torch.testing.assert_close(network(moving, fixed).on_grid(shape), backward.on_grid(shape))


@pytest.fixture(scope="module")
def losses(parity_dir: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((parity_dir / "state_dicts.json").read_text())[
        "losses_carl3d"
    ]
    return found


def test_similarities_agree_with_the_reference(losses: dict[str, float], parity_dir: Path) -> None:
    pair = reference_outputs("carl3d", parity_dir)
    moving, fixed = pair["moving"].squeeze()[None, None], pair["fixed"].squeeze()[None, None]
    found = {
        "lncc_sigma4": lncc(moving, fixed, sigma=4),
        "lncc_sigma5": lncc(moving, fixed, sigma=5),
        "squared_lncc_sigma5": squared_lncc(moving, fixed, sigma=5),
        "mind_ssc_r2_d2": mind_ssc(moving, fixed),
        "ncc": ncc(moving, fixed),
    }
    for key, value in found.items():
        assert value.item() == pytest.approx(losses[key], rel=1e-5), key


def test_regularity_agrees_with_the_reference(losses: dict[str, float], parity_dir: Path) -> None:
    pair = reference_outputs("carl3d", parity_dir)
    fixed, moving = pair["fixed"].squeeze()[None, None], pair["moving"].squeeze()[None, None]
    shape = fixed.shape[2:]
    with torch.inference_mode():
        phi = drawn_network("carl3d", parity_dir)(fixed, moving).on_grid(shape)
    energy = diffusion(phi, identity(shape, align_corners=True))
    assert energy.item() == pytest.approx(losses["diffusion_energy"], rel=1e-5)
    determinant = jacobian_determinant(phi * voxels_per_unit(shape, True).view(1, 3, 1, 1, 1))
    # float32 positions carry some 5e-6 voxels: such a cell may count on either side of zero.
    undecided = int((determinant.abs() < 1e-5).sum())
    assert undecided < 20
    assert abs(int((determinant < 0).sum()) - losses["folds"]) <= undecided

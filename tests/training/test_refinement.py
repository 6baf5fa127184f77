"""How Ψ behind a frozen network is trained: views of kept pairs stay true to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carl_cli.model.fields import identity, sample
from carl_cli.model.unet import DisplacementUNet
from carl_cli.training.config import TrainConfig, load_config
from carl_cli.training.loop import train
from carl_cli.training.objective import weighted
from carl_cli.training.refining import KeptPairs, RefinementObjective, View, cut, turned
from carl_cli.training.run_folder import load_state
from carl_cli.training.start import averaged, example_configs, parts
from carl_cli.training.synthesis.chance import Chance
from tests.training.conftest import EASY, TINY_MODEL
from tests.training.test_loop import records, same_bits

SIDE = 48
EXAMPLE = next(path for path in example_configs() if path.stem == "refinement")
(STAGE,) = load_config(EXAMPLE).stages


def _waves(phase: float) -> Tensor:
    z, y, x = identity((SIDE,) * 3, False)[0]
    waves = torch.sin(5 * x + phase) * torch.cos(4 * y) + torch.sin(6 * z - phase)
    return (waves / 4 + 0.5)[None, None]


def _view() -> View:
    """A smooth pair whose maps and truth are smooth displacements of a few voxels."""
    g = torch.Generator().manual_seed(0)
    knots = torch.randn(3, 3, 4, 4, 4, generator=g) * 0.03
    u = torch.nn.functional.interpolate(knots, size=(SIDE,) * 3, mode="trilinear")
    images = torch.cat([_waves(0.0), _waves(0.7)])
    labels = (images > 0.5).long()
    return View(images, labels, torch.ones(3, 1, *(SIDE,) * 3, dtype=torch.bool), u, True)


def _warped(view: View) -> Tensor:
    """The moving image at each displacement."""
    grid = identity(view.shape, False)
    return torch.cat([sample(view.images[1:], grid + u[None], False) for u in view.u])


@pytest.mark.parametrize("seed", range(6))
def test_what_is_seen_is_the_same_pair(seed: int) -> None:
    """Turned and cut as an image would be, what the maps fetch is what they fetched before,
    where it lies inside the part."""
    view = _view()
    whole, chance = _warped(view), Chance(seed)
    seen = cut(turned(view, chance), chance, SIDE)
    followed = View(whole[:2], view.labels, view.visible, view.u, True)
    chance = Chance(seed)
    expected = cut(turned(followed, chance), chance, SIDE).images
    landed = identity(seen.shape, False) + seen.u[:2]
    inside = ((landed > 0.5 / min(seen.shape)) & (landed < 1 - 0.5 / min(seen.shape))).all(1)
    found = _warped(seen)[:2]
    assert inside.float().mean() > 0.3
    assert (found - expected)[:, 0][inside].abs().max() < 1e-4


def test_parts_are_small_and_some_are_thin() -> None:
    shapes = [cut(_view(), Chance(seed), SIDE).shape for seed in range(30)]
    assert all(6 <= n <= 48 and n % 2 == 0 for shape in shapes for n in shape)
    thin = sum(min(shape) <= 16 for shape in shapes)
    assert 4 <= thin <= 16


def test_the_loss_falls() -> None:
    """The truth's term pulls: after steps on one view, maps are nearer to it."""
    torch.manual_seed(0)
    images, labels, visible, u = (
        x[..., ::2, ::2, ::2] for x in vars(_view()).values() if isinstance(x, Tensor)
    )
    u = torch.cat([torch.zeros_like(u[:2]), torch.full_like(u[2:], 0.04)])
    view = View(images, labels, visible, u, False)
    unet = DisplacementUNet(3, 1, (4, 8), (4, 8), align_corners=False).eval()
    objective = RefinementObjective(unet, STAGE)
    optimiser = torch.optim.Adam(unet.parameters(), lr=3e-3)
    losses = []
    for step in range(16):
        loss, _ = weighted(list(objective._terms(view, Chance(step))), STAGE.loss, 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


SYMMETRIC: dict[str, Any] = {
    **TINY_MODEL,
    "coarse_scale": 4,
    "coarse_symmetric": True,
    "refine_scales": (2, 1),
    "refine_symmetric": True,
}


def tiny(make_config: Callable[..., TrainConfig], **stage: Any) -> TrainConfig:
    loss = {"similarity": 0.5, "sigma": 2, "dice": 1.0, "field": 0.3, "refinement": 0.15}
    values = {"kind": "refinement", "steps": 8, "shape_zyx": (32, 32, 32), "loss": loss}
    return make_config(
        [values | stage], model=SYMMETRIC, data={"kind": "synthetic", "synthesis": EASY}
    )


def test_one_refinement_learns_for_both_scales_and_resumes(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = tiny(make_config)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert train(config, whole) == "finished"
    outcomes = [train(config, pieces, resume=True, max_seconds=0) for _ in range(8)]
    assert outcomes == ["time"] * 8
    assert same_bits(load_state(whole, "last"), load_state(pieces, "last"))
    coarse, first, second = parts(averaged(load_state(whole, "last"))[0])
    assert same_bits(dict(first.state_dict()), dict(second.state_dict()))
    images = torch.rand(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        assert first(*images).displacement_BDx.abs().max() > 0
    torch.manual_seed(config.seed)
    from carl_cli.model.network import build_network

    untouched = parts(build_network(config.model))[0]
    assert same_bits(dict(coarse.state_dict()), dict(untouched.state_dict()))
    assert {"refinement"} <= records(whole)[0].keys()


def test_new_pairs_come_now_and_then() -> None:
    kept = KeptPairs(None, None, STAGE, 0)  # type: ignore[arg-type]
    counts = [kept._count(step) for step in range(400)]
    gains = [b - a for a, b in itertools.pairwise(counts)]
    assert counts[0] == 1
    assert set(gains) == {0, 1}
    assert [counts[k] for k in (3, 4, 196, 203, 204, 216)] == [1, 2, 50, 50, 51, 52]

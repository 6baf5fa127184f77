"""How Ψ behind a frozen network is trained: views of kept pairs stay true to them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from carl_cli.model.fields import identity, sample
from carl_cli.model.unet import DisplacementUNet
from carl_cli.training.synthesis.chance import Chance

SCRIPT = Path(__file__).parents[2] / "examples" / "training" / "refinement.py"
SIDE = 48


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refinement", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["refinement"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _waves(phase: float) -> Tensor:
    z, y, x = identity((SIDE,) * 3, False)[0]
    waves = torch.sin(5 * x + phase) * torch.cos(4 * y) + torch.sin(6 * z - phase)
    return (waves / 4 + 0.5)[None, None]


def _view(script: ModuleType) -> object:
    """A smooth pair whose maps and truth are smooth displacements of a few voxels."""
    g = torch.Generator().manual_seed(0)
    knots = torch.randn(3, 3, 4, 4, 4, generator=g) * 0.03
    u = torch.nn.functional.interpolate(knots, size=(SIDE,) * 3, mode="trilinear")
    images = torch.cat([_waves(0.0), _waves(0.7)])
    labels = (images > 0.5).long()
    return script.View(images, labels, torch.ones(3, 1, *(SIDE,) * 3, dtype=torch.bool), u, True)


def _warped(view: object) -> Tensor:
    """The moving image at each displacement."""
    grid = identity(view.shape, False)
    return torch.cat([sample(view.images[1:], grid + u[None], False) for u in view.u])


@pytest.mark.parametrize("seed", range(6))
def test_what_is_seen_is_the_same_pair(script: ModuleType, seed: int) -> None:
    """Turned and cut as an image would be, what the maps fetch is what they fetched before,
    where it lies inside the part."""
    view = _view(script)
    whole, chance = _warped(view), Chance(seed)
    seen = script.cut(script.turned(view, chance), chance)
    followed = script.View(whole[:2], view.labels, view.visible, view.u, True)
    chance = Chance(seed)
    expected = script.cut(script.turned(followed, chance), chance).images
    landed = identity(seen.shape, False) + seen.u[:2]
    inside = ((landed > 0.5 / min(seen.shape)) & (landed < 1 - 0.5 / min(seen.shape))).all(1)
    found = _warped(seen)[:2]
    assert inside.float().mean() > 0.3
    assert (found - expected)[:, 0][inside].abs().max() < 1e-4


def test_parts_are_small_and_some_are_thin(script: ModuleType) -> None:
    shapes = [script.cut(_view(script), Chance(seed)).shape for seed in range(30)]
    assert all(6 <= n <= 48 and n % 2 == 0 for shape in shapes for n in shape)
    thin = sum(min(shape) <= 16 for shape in shapes)
    assert 4 <= thin <= 16


def test_the_loss_falls(script: ModuleType) -> None:
    """The truth's term pulls: after steps on one view, maps are nearer to it."""
    torch.manual_seed(0)
    images, labels, visible, u = (
        x[..., ::2, ::2, ::2] for x in vars(_view(script)).values() if isinstance(x, Tensor)
    )
    u = torch.cat([torch.zeros_like(u[:2]), torch.full_like(u[2:], 0.04)])
    view = script.View(images, labels, visible, u, False)
    unet = DisplacementUNet(3, 1, (4, 8), (4, 8), align_corners=False).eval()
    optimiser = torch.optim.Adam(unet.parameters(), lr=3e-3)
    losses = []
    for step in range(16):
        loss = script.loss_of(view, unet, Chance(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]

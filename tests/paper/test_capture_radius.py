"""The derivative by t against finite differences, and what a second step must not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carl_cli.model.fields import DisplacementMap, Map
from carl_cli.model.network import ModelConfig, UNetConfig, build_network
from carl_cli.model.operators import Registrar, TwoStep
from examples.paper.capture_radius import capture_radius, half_rise, loss_and_slope

UNET = UNetConfig(down=(4, 6), up=(4, 5))
CONFIG = ModelConfig(dimension=2, coarse="unet", unet=UNET, coordinates="centres")


def _blob() -> Tensor:
    """A smooth bump: 48 × 36 pixels stand for 768 × 576."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(36.0), indexing="ij")
    return torch.exp(-((y - 20) ** 2 + (x - 18) ** 2) / 40)[None, None]


class _Undo(Registrar):
    """A second step that moves everything back by a fixed part of the image."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part = part

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        columns = torch.full_like(fixed, -self.part)
        both = torch.cat([torch.zeros_like(columns), columns], 1)
        return DisplacementMap(both, align_corners=False)


def test_the_slope_is_the_derivative_of_the_loss() -> None:
    t, step = torch.tensor([24.0, 40.0, 72.0]), 0.5
    _, slopes = loss_and_slope(None, _blob(), _blob(), t)
    ahead, back = (loss_and_slope(None, _blob(), _blob(), t + s)[0] for s in (step, -step))
    torch.testing.assert_close((ahead - back) / (2 * step), slopes, rtol=0.02, atol=1e-5)


def test_refinements_that_learned_nothing_change_nothing() -> None:
    t = torch.tensor([8.0, 24.0, 104.0])
    alone = loss_and_slope(None, _blob(), _blob(), t)
    refined = loss_and_slope(build_network(CONFIG), _blob(), _blob(), t)
    torch.testing.assert_close(refined, alone, rtol=1e-4, atol=1e-6)


def test_a_second_step_that_moves_back_by_two_columns_moves_the_curve_by_two() -> None:
    t, columns = torch.tensor([40.0, 56.0, 72.0]), 2
    network = TwoStep(build_network(CONFIG), _Undo(columns / 36), align_corners=False)
    found, _ = loss_and_slope(network, _blob(), _blob(), t)
    expected, _ = loss_and_slope(None, _blob(), _blob(), t - columns * 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("slopes", "expected"),
    [([1.0, 2.0, 1.0, -0.1, 3.0], 40.0), ([1.0] * 5, 50.0), ([-1.0] * 5, 10.0)],
)
def test_the_radius_ends_where_the_slope_first_points_the_wrong_way(
    slopes: list[float], expected: float
) -> None:
    t = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0])
    assert capture_radius(t, torch.tensor(slopes)) == expected


def test_half_of_the_rise() -> None:
    t = torch.tensor([10.0, 20.0, 30.0])
    assert half_rise(t, torch.tensor([0.2, 0.4, 1.0])) == pytest.approx(20 + 10 * 0.2 / 0.6)
    assert half_rise(t, torch.tensor([1.0, 0.8, 0.2])) == 10.0

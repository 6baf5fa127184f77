"""Instance optimisation: it lowers the loss, keeps the best state, and leaves nothing behind."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carl_cli.model.coarse import coarse_images, coarse_network
from carl_cli.model.fields import ComposedMap, DisplacementMap, identity, sample
from carl_cli.model.network import (
    EncoderConfig,
    ModelConfig,
    UNetConfig,
    build_network,
)
from carl_cli.model.operators import Registrar
from carl_cli.model.regularity import diffusion, gradicon
from carl_cli.model.similarity import local_correlation
from carl_cli.registration.instance import InstanceOptions, Pair, optimise

CONFIG = ModelConfig(
    dimension=2,
    refine_scales=(2,),
    encoder=EncoderConfig(width=8, blocks=1, padding=3),
    unet=UNetConfig(down=(8, 12), up=(8, 10)),
    coordinates="centres",
)


@pytest.fixture
def network() -> Registrar:
    torch.manual_seed(0)
    return build_network(CONFIG)


def _blob(row: float, column: float, width: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    return torch.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))[None, None]


@pytest.fixture
def pair() -> Pair:
    fixed = _blob(14, 15, 5) + 0.5 * _blob(20, 22, 2)
    return Pair(fixed, _blob(17, 14, 6) + 0.5 * _blob(24, 20, 2.5))


def _options(scope: str, steps: int = 12) -> InstanceOptions:
    return InstanceOptions(steps, 2e-3, "lncc", scope=scope, sigma=2)


@pytest.mark.parametrize("scope", ["all", "refine"])
def test_the_loss_falls_and_the_network_is_not_touched(
    network: Registrar, pair: Pair, scope: str
) -> None:
    before = copy.deepcopy(network.state_dict())
    _, _, losses = optimise(network, pair, _options(scope), align_corners=False)
    assert len(losses) == 13
    assert min(losses) < losses[0] - 0.02
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def _masked(pair: Pair) -> Pair:
    """A mask for each image, neither like the other."""
    fixed_mask, moving_mask = (torch.zeros_like(pair.fixed, dtype=torch.bool) for _ in range(2))
    fixed_mask[..., 4:19, 6:30], moving_mask[..., 9:30, 2:21] = True, True
    return replace(pair, fixed_mask=fixed_mask, moving_mask=moving_mask)


@pytest.mark.parametrize(
    ("metric", "sigma", "floor", "weight"),
    [
        ("lncc", 2, 1e-5, 0.0),
        ("lncc", 4, 1e-5, 0.0),
        ("lncc", 2, 1e-5, 40.0),
        ("lncc2", 2, 1e-5, 0.0),
        ("lncc", 2, 1e-2, 0.0),
    ],
)
def test_the_loss_is_what_the_options_say(
    network: Registrar, pair: Pair, metric: str, sigma: int, floor: float, weight: float
) -> None:
    """Both directions, each in its own mask and in windows of σ voxels, and λ times GradICON."""
    pair = _masked(pair)
    options = InstanceOptions(
        *(0, 1e-3, metric),
        regularisation=weight,
        scope="all",
        sigma=sigma,
        variance_floor=floor,
        seed=7,
    )
    (found,) = optimise(network, pair, options, align_corners=False)[2]
    with torch.no_grad():
        ahead, back = network.both_directions(pair.fixed, pair.moving)
        expected = 0.0
        for image, other, phi, mask in (
            (pair.fixed, pair.moving, ahead, pair.fixed_mask),
            (pair.moving, pair.fixed, back, pair.moving_mask),
        ):
            warped = sample(other, phi.on_grid((32, 32)), False)
            windows = local_correlation(warped, image, sigma, floor)[mask]
            expected += 1 - float((windows if metric == "lncc" else windows**2).mean())
        chance = torch.Generator().manual_seed(7)
        regular = float(gradicon(ahead, back, (32, 32), False, chance, stride=2))
    assert regular * 40 > 0.01
    assert found == pytest.approx(expected + weight * regular, abs=1e-5)


@pytest.mark.parametrize(("metric", "sigma"), [("lncc", 2), ("lncc", 4), ("lncc2", 2)])
def test_the_field_is_judged_in_windows_of_sigma(pair: Pair, metric: str, sigma: int) -> None:
    """The first state is the identity, seen on blocks of 8 pixels: both directions are alike."""
    image = torch.nn.functional.interpolate(torch.cat([pair.fixed, pair.moving]), size=(96, 80))
    large = Pair(image[:1], image[1:])
    options = InstanceOptions(1, metric=metric, sigma=sigma, scope="field")
    losses = optimise(_Still(), large, options, align_corners=False)[2]
    coarse = torch.nn.functional.avg_pool2d(image, 8)
    windows = local_correlation(coarse[:1], coarse[1:], sigma)
    expected = 2 * (1 - float((windows if metric == "lncc" else windows**2).mean()))
    assert losses[0] == pytest.approx(expected, abs=1e-5)


class _Still(Registrar):
    """Finds nothing: its map is the identity."""

    def forward(self, fixed: Tensor, moving: Tensor) -> DisplacementMap:
        return DisplacementMap(torch.zeros(1, 2, *fixed.shape[2:]), False)


def test_refine_keeps_what_attention_found(network: Registrar, pair: Pair) -> None:
    forward, _, _ = optimise(network, pair, _options("refine"), align_corners=False)
    with torch.inference_mode():
        images = coarse_images(network, pair.fixed, pair.moving)
        expected = coarse_network(network)(*images).on_grid((8, 8))
    assert isinstance(forward, ComposedMap)
    assert torch.equal(forward.outer.on_grid((8, 8)), expected)


def test_the_same_seed_gives_the_same_map(network: Registrar, pair: Pair) -> None:
    first, second = (
        optimise(network, pair, _options("all", 4), align_corners=False)[0].on_grid((32, 32))
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_a_step_too_long_is_not_kept(network: Registrar, pair: Pair) -> None:
    """With an absurd learning rate the first state stays the best, and is what comes back."""
    options = InstanceOptions(3, 50.0, "lncc", scope="refine", sigma=2)
    forward, _, losses = optimise(network, pair, options, align_corners=False)
    assert losses.index(min(losses)) == 0
    with torch.inference_mode():
        expected = network(pair.fixed, pair.moving).on_grid((32, 32))
    torch.testing.assert_close(forward.on_grid((32, 32)), expected, rtol=0, atol=1e-6)


def test_a_loss_that_has_settled_ends_the_steps(network: Registrar, pair: Pair) -> None:
    """Steps too short to gain anything: after `patience` of them, unless that is 0."""
    for patience, expected in ((3, 4), (0, 9)):
        options = InstanceOptions(8, 1e-9, "lncc", scope="refine", sigma=2, patience=patience)
        assert len(optimise(network, pair, options, align_corners=False)[2]) == expected
    falling = InstanceOptions(8, 2e-3, "lncc", scope="all", sigma=2, patience=3)
    assert len(optimise(network, pair, falling, align_corners=False)[2]) == 9


def test_a_mask_takes_voxels_out_of_the_loss(pair: Pair) -> None:
    values = local_correlation(pair.fixed, pair.moving, 2)
    mask = pair.fixed > 0.3
    from carl_cli.model.similarity import lncc

    expected = 1 - values[mask].mean()
    torch.testing.assert_close(lncc(pair.fixed, pair.moving, mask, sigma=2), expected)


def _linear(matrix: Tensor) -> DisplacementMap:
    grid = identity((24, 24), False)
    moved = torch.einsum("ij,bjyx->biyx", matrix - torch.eye(2), grid - 0.5)
    return DisplacementMap(moved, align_corners=False)


def test_gradicon_of_linear_maps_is_the_norm_of_the_defect() -> None:
    """Mean over components of ‖∇(x - A B x)‖² = ‖1 - A B‖² / 2 (Frobenius); the few points
    that the random offsets put outside of the grid see a flat displacement."""
    a = torch.tensor([[0.9, 0.1], [0.0, 0.85]])
    b = torch.tensor([[0.8, -0.1], [0.05, 0.9]])
    generator = torch.Generator().manual_seed(1)
    found = gradicon(_linear(a), _linear(b), (24, 24), False, generator)
    expected = (torch.eye(2) - a @ b).square().sum() / 2
    torch.testing.assert_close(found, expected, rtol=0.08, atol=0)
    exact = gradicon(_linear(a), _linear(torch.linalg.inv(a)), (10, 10), False, generator)
    assert float(exact) < 0.1 * float(expected)


def test_diffusion_of_a_linear_map_is_closed_form() -> None:
    matrix = torch.tensor([[1.2, 0.0], [0.1, 1.0]])
    grid = identity((20, 20), True)
    phi = torch.einsum("ij,bjyx->biyx", matrix, grid)
    step = 1 / 19
    expected = 400 * step**2 * (matrix - torch.eye(2)).square().sum() / 2
    torch.testing.assert_close(diffusion(phi, grid), expected, rtol=1e-4, atol=0)


def test_a_loss_that_is_no_number_ends_the_fit_at_the_best_state(
    network: Registrar,
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from carl_cli.registration import instance

    expected, _, losses = optimise(network, pair, _options("all", 3), align_corners=False)
    measured: list[int] = []
    gradicon_of = instance.gradicon

    def failing(*arguments: object, **named: object) -> Tensor:
        measured.append(1)
        good: Tensor = gradicon_of(*arguments, **named)  # type: ignore[arg-type]
        return good * (float("nan") if len(measured) > 4 else 1.0)

    monkeypatch.setattr(instance, "gradicon", failing)
    found, _, kept = optimise(network, pair, _options("all", 12), align_corners=False)
    assert kept == losses
    assert torch.equal(found.on_grid((32, 32)), expected.on_grid((32, 32)))
    assert "no finite loss after 4 steps" in caplog.text

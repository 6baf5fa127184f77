"""Instance optimisation of the maps: known deformations are found, and stay invertible."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from carl_cli.model.blur import blur
from carl_cli.model.fields import DisplacementMap, Map, identity, jacobian_determinant, sample
from carl_cli.model.similarity import lncc, masked_mean
from carl_cli.registration.diffeomorphic import Descent, pulled_along, refine
from carl_cli.registration.instance import InstanceOptions, Pair, fit_maps

SHAPE = (64, 56)
DESCENT = Descent(partial(lncc, sigma=3), steps=20, smoothing=2.0)


def _texture(points: Tensor) -> Tensor:
    """A smooth pattern without end at unit coordinates (1, 2, *shape)."""
    y, x = points[:, :1] * SHAPE[0], points[:, 1:] * SHAPE[1]
    waves = [(0.31, 0.17, 0.2), (-0.22, 0.4, 1.1), (0.55, -0.35, 2.0), (0.13, 0.09, 0.5)]
    return 0.5 + sum(torch.sin(a * y + b * x + c) for a, b, c in waves) / 8


def _bump(points: Tensor, height: float) -> Tensor:
    """x + u(x) with a smooth u of `height` voxels in the middle, unit coordinates."""
    middle = ((points - 0.5) ** 2).sum(1, keepdim=True)
    direction = torch.tensor([1.0, -0.7]).view(1, 2, 1, 1) / SHAPE[0]
    return points + height * direction * torch.exp(-middle / 0.05)


@pytest.fixture(params=[True, False], ids=["corners", "centres"])
def align_corners(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def _at_rest(shape: tuple[int, ...], align_corners: bool) -> Map:
    return DisplacementMap(torch.zeros(1, len(shape), *shape), align_corners)


def _squared_difference(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    return masked_mean((a - b) ** 2, mask)


def _unheard(share: float, loss: float) -> None:
    del share, loss


def _refined(
    fixed: Tensor,
    moving: Tensor,
    align_corners: bool,
    masks: tuple[Tensor | None, ...] = (None,) * 2,
    descent: Descent = DESCENT,
) -> tuple[Map, Map, list[float]]:
    still = [_at_rest(tuple(image.shape[2:]), align_corners) for image in (fixed, moving)]
    return refine(still, (fixed, moving), masks, align_corners, descent, _unheard)


def _inverse(forward: Map, align_corners: bool) -> Map:
    grid = identity(SHAPE, align_corners)
    inverse = grid
    for _ in range(50):
        inverse = inverse + grid - forward(inverse)
    return DisplacementMap(inverse - grid, align_corners)


def _voxels(phi: Tensor) -> Tensor:
    return phi * torch.tensor(SHAPE).view(1, 2, 1, 1)


def test_a_known_deformation_is_found(align_corners: bool) -> None:
    """Where the bump is, what is left of it is less than a tenth; both ways are inverse."""
    grid = identity(SHAPE, align_corners)
    truth = _bump(grid, 3.0)
    moving = _texture(grid)
    fixed = _texture(truth)  # fixed(x) = moving(truth(x))
    forward, backward, losses = _refined(fixed, moving, align_corners)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    missed = _voxels(forward.on_grid(SHAPE) - truth)[inner].norm(dim=1)
    start = _voxels(grid - truth)[inner].norm(dim=1)
    assert start.max() > 3.0
    assert missed.mean() < 0.1 * start.mean()
    assert missed.max() < 0.3 * start.max()
    around = _voxels(forward(backward.on_grid(SHAPE)) - grid)[inner].norm(dim=1)
    assert around.max() < 0.05
    assert jacobian_determinant(_voxels(forward.on_grid(SHAPE))).min() > 0
    assert losses[-1] < 0.2 * losses[0]
    assert losses == sorted(losses, reverse=True)


def test_a_deformation_wider_than_a_pattern_is_found() -> None:
    """Bumps of up to 11 voxels among waves of 10 to 40: only coarse scales tell them apart."""
    grid = identity(SHAPE, False)
    truth = _bump(grid, 9.0)
    forward, _, _ = _refined(_texture(truth), _texture(grid), False)
    missed = _voxels(forward.on_grid(SHAPE) - truth)[:, :, 8:-8, 8:-8].norm(dim=1)
    assert missed.mean() < 0.3
    assert jacobian_determinant(_voxels(forward.on_grid(SHAPE))).min() > 0


def test_a_loss_that_is_no_number_leaves_the_maps(caplog: pytest.LogCaptureFixture) -> None:
    image = _texture(identity(SHAPE, False))
    broken = image.clone()
    broken[..., 20, 20] = torch.nan
    found, _, losses = _refined(image, broken, False)
    assert torch.equal(found.on_grid(SHAPE), identity(SHAPE, False))
    assert losses == []
    assert "can't be compared" in caplog.text


def test_no_steps_change_nothing() -> None:
    image = _texture(identity(SHAPE, False))
    maps = [_at_rest(SHAPE, False) for _ in range(2)]
    none = Descent(DESCENT.similarity, steps=0, smoothing=2.0)
    found = refine(maps, (image, image), (None, None), False, none, _unheard)
    assert found == (*maps, [])


def test_equal_images_stay_in_place(align_corners: bool) -> None:
    image = _texture(identity(SHAPE, align_corners))
    forward, backward, _ = _refined(image, image.clone(), align_corners)
    for map_ in (forward, backward):
        moved = _voxels(map_.on_grid(SHAPE) - identity(SHAPE, align_corners))
        assert moved.abs().max() < 1e-3


def test_the_start_is_kept_when_it_is_right(align_corners: bool) -> None:
    """A start at the truth (all of it inside the image) ends there."""
    grid = identity(SHAPE, align_corners)
    truth = _bump(grid, 3.0)
    moving = _texture(grid)
    fixed = sample(moving, truth, align_corners)
    start = DisplacementMap(truth - grid, align_corners)
    maps = (start, _inverse(start, align_corners))
    forward, _, _ = refine(maps, (fixed, moving), (None, None), align_corners, DESCENT, _unheard)
    assert _voxels(forward.on_grid(SHAPE) - truth).norm(dim=1).mean() < 0.05


ROOMY = (128, 128)  # sixteen voxels along an axis of the coarsest scale


def _discs(points: Tensor, noise: Tensor) -> Tensor:
    """A large disc with three in it, and grain that the other image has not."""
    image = 0.1 + 0.02 * noise
    for y, x, radius, height in (
        (0.5, 0.5, 0.36, 0.4), (0.42, 0.36, 0.12, 0.3), (0.42, 0.66, 0.13, 0.3),
        (0.68, 0.5, 0.08, -0.3),
    ):  # fmt: skip
        distance = (points - torch.tensor([y, x]).view(1, 2, 1, 1)).norm(dim=1, keepdim=True)
        image = image + height * torch.sigmoid((radius - distance) * ROOMY[0] / 1.5)
    return image


def _missed_from_afar(seed: int) -> float:
    """Mean error in voxels after a start that is off by 24 voxels, smoothly and at random."""
    grid, random = identity(ROOMY, False), torch.Generator().manual_seed(seed)
    truth = grid + 8 * (_bump(grid, 1.0) - grid) * SHAPE[0] / ROOMY[0]
    off = blur(torch.randn(1, 2, *ROOMY, generator=random), 16.0)
    off = off * (24 / off.norm(dim=1).mean() / ROOMY[0])
    images = [_discs(at, torch.randn(1, 1, *ROOMY, generator=random)) for at in (truth, grid)]
    start = DisplacementMap(truth + off - grid, False)
    backward = DisplacementMap(grid - truth - off, False)
    descent = Descent(partial(lncc, sigma=2), steps=24, smoothing=2.0)
    forward, _, _ = refine((start, backward), images, (None, None), False, descent, _unheard)
    missed = (forward.on_grid(ROOMY) - truth) * ROOMY[0]
    return float(missed[:, :, 12:-12, 12:-12].norm(dim=1).mean())


def test_roaming_leads_out_of_a_wrong_valley(monkeypatch: pytest.MonkeyPatch) -> None:
    """If steps that raise the loss were taken back on the coarsest scale too, more were missed."""
    roamed = [_missed_from_afar(seed) for seed in range(3)]
    monkeypatch.setattr("carl_cli.registration.diffeomorphic.MIN_VOXELS", 1000)
    bound = [_missed_from_afar(seed) for seed in range(3)]
    assert sum(roamed) < 0.8 * sum(bound)


def test_what_is_fine_and_right_is_not_lost_in_one_step() -> None:
    grid = identity(SHAPE, False)
    ripple = torch.sin(grid * torch.tensor(SHAPE).view(1, 2, 1, 1)) / SHAPE[0]
    start = DisplacementMap(ripple, False)
    maps, images = (start, _inverse(start, False)), (_texture(grid + ripple), _texture(grid))
    one = Descent(DESCENT.similarity, steps=1, smoothing=2.0)
    forward, _, _ = refine(maps, images, (None, None), False, one, _unheard)
    torch.testing.assert_close(forward.on_grid(SHAPE), start.on_grid(SHAPE))


@pytest.mark.parametrize("fitted", [False, True], ids=["descent", "instance"])
def test_what_a_mask_leaves_out_does_not_pull(fitted: bool) -> None:
    """The left half goes down, the right half up; masks over the left make all follow it.

    Squared differences, because a window of local correlations looks beyond its mask; as instance
    optimisation has it, a narrow one. Each image has a shape of its own, and so has its mask.
    """
    grid, other = identity(SHAPE, False), identity((64, 48), False)
    way = torch.tanh((0.5 - grid[:, 1:]) * 20) * 2.0 / SHAPE[0]
    fixed, moving = _texture(grid + torch.cat([way, 0 * way], 1)), _texture(other)
    masks = [(points[:, 1:] < 1 / 3).to(torch.uint8) for points in (grid, other)]
    still = [_at_rest(tuple(image.shape[2:]), False) for image in (fixed, moving)]
    descent = Descent(_squared_difference, steps=20, smoothing=2.0)
    options = InstanceOptions(20, metric="lncc", sigma=1, scope="field", smoothing=2.0)
    for given, right in (((None, None), -2.0), (masks, 0.5)):
        if fitted:
            pair = Pair(fixed, moving, *given)
            forward, _, _ = fit_maps((still[0], still[1]), pair, options, False)
        else:
            forward, _, _ = _refined(fixed, moving, False, tuple(given), descent)
        moved = _voxels(forward.on_grid(SHAPE) - grid)[0, 0, 8:-8]
        assert moved[:, 4:12].mean() == pytest.approx(2.0, abs=0.25)
        assert moved[:, 44:52].mean() == pytest.approx(right, abs=0.5)


@pytest.mark.parametrize(("steps", "sigma", "smoothing"), [(1, 3, 1.0), (1, 3, 3.0), (2, 2, 3.0)])
def test_instance_optimisation_is_the_descent_of_its_options(
    steps: int, sigma: int, smoothing: float
) -> None:
    grid = identity(SHAPE, False)
    images, still = (_texture(_bump(grid, 2.0)), _texture(grid)), _at_rest(SHAPE, False)
    descent = Descent(partial(lncc, sigma=sigma), steps, smoothing)
    expected = _refined(*images, False, descent=descent)
    options = InstanceOptions(steps, metric="lncc", sigma=sigma, scope="field", smoothing=smoothing)
    found = fit_maps((still, still), Pair(*images), options, False)
    assert found[2] == expected[2]
    assert torch.equal(found[0].on_grid(SHAPE), expected[0].on_grid(SHAPE))


def test_swapping_the_images_swaps_the_maps() -> None:
    grid = identity(SHAPE, False)
    fixed, moving = _texture(_bump(grid, 3.0)), _texture(grid)
    forward, backward, _ = _refined(fixed, moving, False)
    swapped_back, swapped_ahead, _ = _refined(moving, fixed, False)
    torch.testing.assert_close(forward.on_grid(SHAPE), swapped_ahead.on_grid(SHAPE))
    torch.testing.assert_close(backward.on_grid(SHAPE), swapped_back.on_grid(SHAPE))


def test_the_pull_along_two_channels_is_that_of_their_gradients() -> None:
    """x² + 3 y z has the derivatives 2 x, 3 z and 3 y, exactly; the border is left at 0."""
    z, y, x = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), torch.arange(7.0), indexing="ij")
    image = torch.stack([x**2 + 3 * y * z, z])[None]
    slope = torch.stack([torch.full_like(x, 2.0), x])[None]
    pull = pulled_along(slope, image)[0]
    inner = (slice(1, -1),) * 3
    for found, expected in zip(pull, (2 * 3 * y + x, 2 * 3 * z, 2 * 2 * x), strict=True):
        torch.testing.assert_close(found[inner], expected[inner])
    assert pull[2, :, :, [0, -1]].abs().max() == 0

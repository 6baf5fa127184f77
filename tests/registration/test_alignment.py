"""Alignment on self-similarity: any two contrasts, a known map, and what is told of the match."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

import carl_cli
from benchmarks.contest.measures import score
from benchmarks.contest.pairs import SETS
from carl_cli.io.transforms.files import write_transform
from carl_cli.model.fields import DisplacementMap, identity
from carl_cli.registration import alignment
from carl_cli.registration.alignment import align, alike, evidence
from carl_cli.registration.contexts import Contexts, Pair, contexts
from carl_cli.weights.folder import AlignmentRule

SIDE = 48
RULE = AlignmentRule()


def anatomy(points: Tensor) -> Tensor:
    """A body with organs, (1, 1, *shape) in [0, 1], at unit points (1, 3, *shape): smooth edges."""
    draw = torch.Generator().manual_seed(4)
    inside = _ball(points, torch.tensor([0.5, 0.5, 0.5]), 0.34)
    image = 0.4 * inside
    for _ in range(14):
        centre = 0.5 + 0.36 * (torch.rand(3, generator=draw) - 0.5)
        radius = 0.05 + 0.07 * float(torch.rand(1, generator=draw))
        value = 0.2 + 0.8 * float(torch.rand(1, generator=draw))
        ball = _ball(points, centre, radius)
        image = image * (1 - ball) + value * ball * inside
    return image


def _ball(points: Tensor, centre: Tensor, radius: float) -> Tensor:
    distance = (points - centre.view(1, 3, 1, 1, 1)).norm(dim=1, keepdim=True)
    return torch.sigmoid((radius - distance) * SIDE * 1.5)


def bend(points: Tensor) -> Tensor:
    """Fixed → moving: a shift of two voxels, and waves of about one and a half."""
    z, y, x = points.split(1, dim=1)
    waves = torch.cat([torch.sin(6 * y), torch.sin(6 * x + 1), torch.sin(6 * z + 2)], dim=1)
    return points + (2.0 + 1.5 * waves) / SIDE


def inverted(image: Tensor) -> Tensor:
    """Dark and bright exchanged inside the body, the background left at zero."""
    return torch.where(image > 0.02, 1.1 - image, image) * (image > 0.02)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor, Tensor]:
    """Fixed, moving with moving ∘ bend = fixed, and the true map on the fixed voxels."""
    grid = identity((SIDE,) * 3, False, torch.device("cpu"))
    truth = bend(grid)
    back = grid
    for _ in range(30):
        back = back + grid - bend(back)
    return anatomy(grid), anatomy(back), truth


def error_voxels(found: DisplacementMap, truth: Tensor, body: Tensor) -> float:
    distance = (found.on_grid((SIDE,) * 3) - truth).norm(dim=1, keepdim=True) * SIDE
    return float(distance[body].mean())


def still() -> tuple[DisplacementMap, DisplacementMap]:
    zero = torch.zeros(1, 3, SIDE, SIDE, SIDE)
    return DisplacementMap(zero, False), DisplacementMap(zero, False)


@pytest.mark.parametrize("contrast", ["same", "inverted"])
def test_a_known_map_is_found_in_any_contrast(
    images: tuple[Tensor, Tensor, Tensor], contrast: str
) -> None:
    fixed, moving, truth = images
    moving = inverted(moving) if contrast == "inverted" else moving
    pair = Pair(fixed, moving)
    (forward, backward), _ = align(still(), Contexts(pair, RULE), False)
    body = fixed > 0.2
    before = error_voxels(still()[0], truth, body)
    assert before > 2
    assert error_voxels(forward, truth, body) < 0.3 * before
    assert alike(forward, pair, False) == (contrast == "same")
    grid = identity((SIDE,) * 3, False, torch.device("cpu"))
    there_and_back = backward(forward.on_grid((SIDE,) * 3))
    assert float(((there_and_back - grid).norm(dim=1, keepdim=True) * SIDE)[body].mean()) < 0.1


def test_one_tissue_in_another_order_is_another_contrast(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    """As of T1 and FLAIR: most of it alike, and the brightest darker than the middle."""
    fixed, _, _ = images
    folded = torch.where(fixed > 0.5, 1 - fixed, fixed)
    steeper = fixed**2
    at_rest = still()[0]
    assert alike(at_rest, Pair(fixed, steeper), False)
    assert not alike(at_rest, Pair(fixed, folded), False)
    assert not alike(at_rest, Pair(torch.zeros_like(fixed), fixed), False)


def test_a_bad_start_is_left_for_the_middle_of_the_images(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    fixed, moving, truth = images
    far = DisplacementMap(torch.full((1, 3, SIDE, SIDE, SIDE), 0.3), False)
    start = far, DisplacementMap(-far.displacement_BDx, False)
    (forward, _), _ = align(start, Contexts(Pair(fixed, moving), RULE), False)
    assert error_voxels(forward, truth, fixed > 0.2) < 1


@pytest.mark.parametrize("larger", ["fixed", "moving"])
def test_a_part_is_seen_in_the_whole(images: tuple[Tensor, Tensor, Tensor], larger: str) -> None:
    """One image shows the organs of one half alone, as a brain without its head, and elsewhere: the
    mask of the other one covers them, and no more than two voxels of a quarter of the grid around.
    """
    fixed, moving, _ = images
    part = _ball(identity((SIDE,) * 3, False), torch.tensor([0.5, 0.42, 0.5]), 0.24)
    whole, alone = (fixed, moving) if larger == "fixed" else (moving, fixed)
    alone = (alone * part).roll(8, dims=2)
    pair = Pair(whole, alone) if larger == "fixed" else Pair(alone, whole)
    known = Contexts(pair, RULE)
    found = alignment._part(known, alignment._shifts(known, False), False)
    assert found is not None
    masks = found.pair.fixed_mask, found.pair.moving_mask
    mask, none = masks if larger == "fixed" else masks[::-1]
    assert none is None
    assert mask is not None
    shown = (part * whole) > 0.2
    assert float((mask & shown).sum() / shown.sum()) > 0.95
    radius = 0.24 * SIDE
    assert float(mask.sum() / shown.sum()) < ((radius + 8) / radius) ** 3


def test_two_images_of_one_extent_are_compared_whole(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    known = Contexts(Pair(*images[:2]), RULE)
    assert align(still(), known, False)[1] is known


@pytest.mark.slow
def test_a_brain_without_its_head(real_data_dir: Path, tmp_path: Path) -> None:
    """The whole head of one person, rendered, and the brain alone of another: 28 structures."""
    pair = next(iter(SETS["stripped"].make(real_data_dir, tmp_path)))
    found = carl_cli.register(pair.fixed, pair.moving)
    write_transform(tmp_path / "t.h5", found.forward)
    assert score(pair, sitk.ReadTransform(str(tmp_path / "t.h5"))) > 0.63  # 0.47 by the whole head


def test_what_the_masks_leave_out_does_not_pull() -> None:
    """One half goes up by two voxels, the other down; with masks over the first half, the second
    stays where it was, or nearly. Each image has a shape of its own, and so has its mask. The
    contrast is inverted: images of one contrast are compared in windows that reach beyond a mask.
    """
    grid, other = (identity(shape, False) for shape in ((32, 32, 40), (32, 32, 48)))
    way = torch.tanh((0.5 - grid[:, 2:]) * 20) * 2 / 32
    fixed, moving = _waves(grid + torch.cat([way, 0 * way, 0 * way], 1)), 1 - _waves(other)
    start = [DisplacementMap(torch.zeros_like(points), False) for points in (grid, other)]
    half = [points[:, 2:] < 0.4 for points in (grid, other)]
    for masks, right, within in (((None, None), -2.0, 0.1), (half, 0.5, 0.5)):
        known = Contexts(Pair(fixed, moving, *masks), RULE)
        (forward, _), _ = align((start[0], start[1]), known, False)
        moved = (forward.on_grid((32, 32, 40)) - grid)[0, 0, 6:-6, 6:-6] * 32
        assert float(moved[..., :10].mean()) == pytest.approx(2.0, abs=0.1)
        assert float(moved[..., 30:].mean()) == pytest.approx(right, abs=within)


def test_what_the_masks_leave_out_decides_no_shift() -> None:
    """A third of the image is moved by eight voxels, the rest stays in place."""
    grid = identity((SIDE,) * 3, False)
    third = grid[:, 2:] < 0.35
    jump = torch.cat([third * 8.0 / SIDE, 0 * grid[:, 1:]], 1)
    fixed, moving = _waves(grid + jump), _waves(grid)
    for masks, voxels in (((None, None), 0), ((third, third), 8)):
        forward, _ = alignment._shifts(Contexts(Pair(fixed, moving, *masks), RULE), False)
        expected = torch.tensor([voxels, 0, 0]).view(1, 3, 1, 1, 1).expand_as(grid)
        torch.testing.assert_close((forward.on_grid((SIDE,) * 3) - grid) * SIDE, expected.float())


def _waves(points: Tensor) -> Tensor:
    """A pattern without end that nowhere repeats itself, about [0, 1]."""
    draw = torch.Generator().manual_seed(1)
    waves = torch.randn(12, 4, generator=draw) * torch.tensor([0.35, 0.35, 0.35, 9.0])
    phases = torch.einsum("wc,bczyx->wzyx", waves[:, :3], points * 32)
    pattern = torch.sin(phases + waves[:, 3].view(-1, 1, 1, 1)).sum(0)[None, None]
    return (0.5 + pattern / 12).clamp(0, 1)


@pytest.mark.parametrize("contrast", ["same", "inverted"])
def test_evidence_tells_right_maps_from_wrong_ones(
    images: tuple[Tensor, Tensor, Tensor], contrast: str
) -> None:
    fixed, moving, truth = images
    pair = Pair(fixed, inverted(moving) if contrast == "inverted" else moving)
    grid = identity((SIDE,) * 3, False, torch.device("cpu"))
    right = DisplacementMap(truth - grid, False)
    turned = DisplacementMap((1 - 2 * grid) * torch.tensor([1.0, 1, 0]).view(1, 3, 1, 1, 1), False)
    assert evidence(right, Contexts(pair, RULE), False) > 0.4
    assert evidence(turned, Contexts(pair, RULE), False) < 0.15


def test_channels_move_with_the_image(images: tuple[Tensor, Tensor, Tensor]) -> None:
    """By whole coarse voxels, exactly, away from the border."""
    fixed = images[0]
    moved = torch.roll(fixed, (4, -8, 4), (2, 3, 4))
    a, b = (contexts(image, 4, RULE.noise_floor) for image in (fixed, moved))
    inner = (..., *[slice(3, -3)] * 3)
    torch.testing.assert_close(torch.roll(a, (1, -2, 1), (2, 3, 4))[inner], b[inner])

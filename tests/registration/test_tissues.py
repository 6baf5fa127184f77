"""Tissues as channels: words apart, the gate, and structures that no edge shows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from carl_cli.model.fields import DisplacementMap, identity, sample
from carl_cli.model.layers import pool
from carl_cli.registration.alignment import align
from carl_cli.registration.contexts import (
    BESIDE_CORRELATION,
    BESIDE_SIMILARITIES,
    Contexts,
    Pair,
)
from carl_cli.registration.instance import InstanceOptions, fit_maps
from carl_cli.registration.tissues import BITS, BRAIN_ML, _words, tissue_channels
from carl_cli.weights.folder import AlignmentRule

SIDE = 48
SHAPE = (SIDE,) * 3
VOXEL_ML = 0.05
HIDDEN = 2e-3  # in intensity: below what self-similarities and correlations look at
DIM, BRIGHT = 0.5, 0.5 + HIDDEN


class Reader(nn.Module):
    """In place of the network: air, and two tissues whose intensities differ by next to nothing."""

    def forward(self, image: Tensor) -> Tensor:
        bright = ((image - DIM) / HIDDEN).clamp(0, 1)
        inside = (image > DIM / 2).float()
        empty = torch.zeros_like(image)
        shares = torch.cat([1 - inside, empty, inside * (1 - bright), inside * bright], dim=1)
        return pool(shares)


def ball(centre: tuple[float, ...], radius: float) -> Tensor:
    """(1, 1, *SHAPE) bool; centre in unit coordinates, radius as a share of the side."""
    away = identity(SHAPE, False) - torch.tensor(centre).view(1, 3, 1, 1, 1)
    return away.norm(dim=1, keepdim=True) < radius


def head(core: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """An even ball with a core of another tissue, and the core."""
    inner = ball(core, 0.14)
    body = ball((0.5, 0.5, 0.5), 0.36).float()
    return body * torch.where(inner, BRIGHT, DIM), inner


def overlap(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_any_two_tissues_are_apart_and_air_is_between_them() -> None:
    words = _words(20)
    assert words.shape == (20, BITS)
    assert words[0].abs().max() == 0
    torch.testing.assert_close(words[1:].square().sum(1), torch.ones(19))
    gaps = torch.cdist(words[1:], words[1:]).square() + 4 * torch.eye(19)
    assert float(gaps.min()) == pytest.approx(4 * 3 / BITS)
    between = gaps[~torch.eye(19, dtype=torch.bool)]
    assert float(between.mean()) == pytest.approx(2, abs=0.2)  # of shares: 2


def test_channels_are_words_of_the_shares_and_the_mean_over_contrasts() -> None:
    image, _ = head((0.5, 0.5, 0.5))
    other = torch.where(image > 0.25, BRIGHT, 0.0)
    both_contrasts = torch.cat([image, other], dim=1)
    found = tissue_channels(Reader(), (both_contrasts,) * 2, (0.25, 0.75), (VOXEL_ML,) * 2)
    assert found is not None
    shares = 0.25 * Reader()(image) + 0.75 * Reader()(other)
    expected = torch.stack([(_words(4) * s[:, None]).sum(0) for s in shares.flatten(2)[0].T])
    torch.testing.assert_close(found[0].flatten(2)[0].T, expected)


@pytest.mark.parametrize("millilitres", [BRAIN_ML[0] - 5, BRAIN_ML[1] + 5])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_no_brain_by_its_volume_is_not_compared(millilitres: float, side: int) -> None:
    image, _ = head((0.5, 0.5, 0.5))
    voxel = millilitres / float((image > 0).sum())
    usual = math.sqrt(BRAIN_ML[0] * BRAIN_ML[1]) / float((image > 0).sum())
    sizes = [usual, usual]
    assert tissue_channels(Reader(), (image, image), (1.0,), (usual, usual)) is not None
    sizes[side] = voxel
    assert tissue_channels(Reader(), (image, image), (1.0,), (sizes[0], sizes[1])) is None


def test_a_trunk_is_not_looked_at() -> None:
    image, _ = head((0.5, 0.5, 0.5))
    litres = float((image > 0).sum()) / 1000

    def asked(_: Tensor) -> Tensor:
        raise AssertionError("the network was asked")

    with pytest.raises(AssertionError, match="asked"):
        tissue_channels(asked, (image, image), (1.0,), (8.9 / litres, 8.9 / litres))
    assert tissue_channels(asked, (image, image), (1.0,), (8.9 / litres, 9.1 / litres)) is None


def test_a_core_that_no_edge_shows_is_found_by_its_tissue() -> None:
    (fixed, core), (moving, moved) = head((0.5, 0.5, 0.45)), head((0.5, 0.5, 0.55))
    pair = Pair(fixed, moving, voxel_ml=(VOXEL_ML, VOXEL_ML))
    tissues = tissue_channels(Reader(), (fixed, moving), (1.0,), pair.voxel_ml)
    start = DisplacementMap(torch.zeros(1, 3, *SHAPE), False)
    dice = []
    for known in (None, tissues):
        maps, _ = align((start, start), Contexts(pair, AlignmentRule(), known), False)
        warped = sample(moved.float(), maps[0].on_grid(SHAPE), False) > 0.5
        dice.append(overlap(core, warped))
    assert overlap(core, moved) == pytest.approx(0.49, abs=0.05)
    assert dice[0] < 0.65
    assert dice[1] > 0.9


def test_channels_beside_self_similarities_keep_their_mean() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    tissues = torch.rand(1, BITS, 8, 8, 8), torch.rand(1, BITS, 8, 8, 8)
    known = Contexts(Pair(*images), AlignmentRule(), tissues)
    own, whole, plain = (
        [call(image, 2) for image in images]
        for call in (known, known.with_tissues, known.intensities)
    )
    between = (tissues[0] - tissues[1]).square().sum(1).mean()
    gap = (own[0] - own[1]).square().mean() + BESIDE_SIMILARITIES * between / 12
    torch.testing.assert_close((whole[0] - whole[1]).square().mean(), gap)
    measured = known.beside_tissues(lambda a, b, _: (a - b).abs().mean())(plain[0], plain[1])
    apart = (pool(images[0]) - pool(images[1])).abs().mean()
    expected = apart + BESIDE_CORRELATION * between
    torch.testing.assert_close(measured, expected)


@pytest.mark.parametrize(
    ("metric", "brains", "scales"), [("lncc", True, 1), ("lncc", False, 2), ("mind", True, 2)]
)
def test_half_of_the_grid_is_not_done_again_without_the_tissues(
    metric: str, brains: bool, scales: int
) -> None:
    image = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    tissues = (torch.rand(1, BITS, 8, 8, 8),) * 2 if brains else None
    pair, start = Pair(image, image), DisplacementMap(torch.zeros(1, 3, 16, 16, 16), False)
    options, told = InstanceOptions(1, metric=metric, scope="field"), []
    known = Contexts(pair, AlignmentRule(), tissues)
    fit_maps((start, start), pair, options, False, known, lambda *words: told.append(words[-1]))
    assert told[-1].startswith(f"scale {scales} of {scales}")

"""Loss terms against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from carl_cli.model.fields import identity
from carl_cli.training.losses import (
    Rows,
    attention_rows,
    attention_to_label,
    attention_to_place,
    common_labels,
    field_error,
    most_frequent,
    soft_dice,
    to_voxels,
)
from carl_cli.training.synthesis.chance import Chance

SHAPE = (6, 5, 7)


@pytest.mark.parametrize("align_corners", [True, False])
def test_voxels_of_the_identity_are_the_indices(align_corners: bool) -> None:
    voxels = to_voxels(identity(SHAPE, align_corners), SHAPE, align_corners)
    expected = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in SHAPE], indexing="ij"))
    torch.testing.assert_close(voxels[0], expected)


def test_field_error_is_huber_of_the_distance() -> None:
    truth = torch.zeros(1, 3, 2, 2, 2)
    phi = truth.clone()
    phi[0, :, 0, 0, 0] = torch.tensor([3.0, 0.0, 4.0])  # 5 voxels away: 5 - 0.5
    phi[0, 1, 1, 1, 1] = 0.5  # 0.5² / 2
    weights = torch.ones(1, 1, 2, 2, 2)
    expected = torch.tensor((4.5 + 0.125) / 8)
    torch.testing.assert_close(field_error(phi, truth, weights), expected, atol=1e-5, rtol=0)


def test_soft_dice_of_a_shift_by_whole_voxels_is_the_hard_dice() -> None:
    fixed = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    fixed[..., 2:6] = 3
    moving = fixed.roll(1, dims=-1)
    phi = identity((8, 8, 8), False)
    seen = torch.ones_like(fixed, dtype=torch.bool)
    labels = torch.tensor([3])
    loss = soft_dice(fixed, moving, phi, seen, labels, False)
    assert loss.item() == pytest.approx(1 - 2 * 3 / 8, abs=1e-5)
    shifted = phi.clone()
    shifted[:, 2] += 1 / 8
    perfect = soft_dice(fixed, moving, shifted, seen, labels, False)
    assert perfect.item() == pytest.approx(0, abs=1e-5)


def test_common_labels_are_large_enough_in_both() -> None:
    fixed = torch.zeros(1, 1, 10, 10, 10, dtype=torch.long)
    fixed[0, 0, :3], fixed[0, 0, 3:6], fixed[0, 0, 6, 0] = 1, 2, 5
    moving = fixed.clone()
    moving[moving == 2] = 4
    assert common_labels(Chance(0), fixed, moving, 9).tolist() == [1]


def uniform_rows(index: list[int]) -> Rows:
    """All keys alike, on a 3×2×4 grid padded by 1."""
    features = torch.zeros(2, 5, 4, 6)
    weights = torch.zeros(24)
    weights[index] = 1
    rows = attention_rows(Chance(1), features, features, 1, weights, 100)
    assert rows is not None
    return rows


def test_attention_rows_are_drawn_where_weights_are_positive() -> None:
    wanted = list(range(3, 15))
    assert sorted(uniform_rows(wanted).index.tolist()) == wanted
    few = torch.zeros(24)
    few[:9] = 1
    features = torch.zeros(2, 5, 4, 6)
    assert attention_rows(Chance(1), features, features, 1, few, 100) is None


def test_keys_are_where_their_positions_say() -> None:
    rows = uniform_rows(list(range(12)))
    key, inside = rows.key_of(rows.positions)
    assert inside.all()
    assert key.tolist() == list(range(5 * 4 * 6))
    outside = torch.tensor([[-2.0, 0, 0], [0, 3.0, 0], [3.0, 2.0, 4.0]])
    assert rows.key_of(outside)[1].tolist() == [False, False, True]


def test_even_attention_costs_the_log_of_the_number_of_keys() -> None:
    rows = uniform_rows(list(range(12)))
    entropy, huber, errors = attention_to_place(rows, torch.full((12, 3), 1.25))
    assert entropy.item() == pytest.approx(math.log(5 * 4 * 6), abs=1e-5)
    distance = math.dist((1.0, 0.5, 1.5), (1.25, 1.25, 1.25))  # from the middle of the keys
    torch.testing.assert_close(errors, torch.full((12,), distance))
    assert huber.item() == pytest.approx(distance**2 / 2, abs=1e-5)


def test_attention_on_the_right_key_has_no_error() -> None:
    rows = uniform_rows(list(range(12)))
    places = torch.tensor([[0.0, 1.0, 3.0]]).expand(12, 3)
    key, _ = rows.key_of(places)
    sharp = torch.full_like(rows.logits, -50.0).scatter(1, key[:, None], 50.0)
    rows = Rows(sharp, rows.index, rows.positions, rows.shape, rows.margin)
    _, huber, errors = attention_to_place(rows, places)
    assert errors.max() < 1e-4
    assert huber < 1e-4


def test_rows_agree_with_softmax_and_logsumexp() -> None:
    """Values and gradients, for logits as far apart as the network's can be (sharpness 4)."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 5, 4, 6, generator=generator)
    features = (4 * features / features.norm(dim=1, keepdim=True)).requires_grad_()
    places = torch.rand(24, 3, generator=generator) * 2
    rows = attention_rows(Chance(0), 4 * features[0], features[1], 1, torch.ones(24), 24)
    assert rows is not None
    _, huber, errors = attention_to_place(rows, places)
    mean = rows.logits.softmax(1) @ rows.positions
    torch.testing.assert_close(errors, (mean - places).norm(dim=1))
    torch.testing.assert_close(rows.total.log(), rows.logits.logsumexp(1))
    distance = (mean - places).norm(dim=1)
    plain = torch.nn.functional.huber_loss(distance, torch.zeros(24), reduction="none").mean()
    ours, theirs = (torch.autograd.grad(x, features, retain_graph=True)[0] for x in (huber, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_even_attention_on_labels_costs_the_log_of_their_share() -> None:
    rows = uniform_rows(list(range(12)))
    fixed = torch.full((3, 2, 4), 7)
    moving = torch.zeros(3, 2, 4, dtype=torch.long)
    moving[0] = 7  # 8 of 120 keys
    loss = attention_to_label(rows, fixed, moving)
    assert loss.item() == pytest.approx(math.log(120 / 8), abs=1e-5)


def test_most_frequent_label_of_each_block() -> None:
    labels = torch.randint(0, 3, (4, 6, 2), generator=torch.Generator().manual_seed(0))
    found = most_frequent(labels, 2)
    assert found.shape == (2, 3, 1)
    for i, j in ((0, 0), (1, 2), (0, 1)):
        block = labels[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
        counts = block.bincount(minlength=3)
        assert counts[found[i, j, 0]] == counts.max()

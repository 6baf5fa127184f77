"""Ξ_F against the closed form, within the error that its derivation gives (Appendix C)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from carl_cli.model.fields import identity
from examples.paper.diffeomorphisms import closed_form, errors, fixed_image, moving_image


@pytest.mark.parametrize(("dimension", "size"), [(1, 33), (1, 65), (1, 129), (1, 257), (2, 33)])
def test_the_untrained_network_gives_the_closed_form(dimension: int, size: int) -> None:
    error, expected = errors(dimension, size)
    assert int((expected > 0).sum()) > 0.3 * size**dimension  # the interior is most of it
    assert bool((error <= expected).all())


def test_the_error_falls_at_least_in_proportion_to_the_spacing() -> None:
    largest = [errors(1, size)[0].max() for size in (33, 65, 129, 257)]
    assert all(fine < coarse / 2 for coarse, fine in pairwise(largest))


def test_the_closed_form_is_the_inverse_moving_image_after_the_fixed_one() -> None:
    """M(φ(x)) = F(x), and in 1D φ(x) = 2/π·arccos(x + 0.07 sin 3πx) digit by digit."""
    for dimension in (1, 2):
        x = identity((41,) * dimension, True).double()
        torch.testing.assert_close(moving_image(closed_form(x)), fixed_image(x))
    x = 0.3
    expected = 2 / math.pi * math.acos(x + 0.07 * math.sin(3 * math.pi * x))
    assert closed_form(torch.tensor([[[x]]]))[0, 0, 0].item() == pytest.approx(expected, abs=1e-6)


def test_the_images_are_one_to_one() -> None:
    """The Jacobian determinant of F keeps its sign."""
    for dimension in (1, 2):
        x = identity((65,) * dimension, True).double().requires_grad_()
        values = fixed_image(x)
        rows = [
            torch.autograd.grad(values[:, k].sum(), x, retain_graph=True)[0]
            for k in range(dimension)
        ]
        jacobian = torch.stack(rows, dim=1)[0].flatten(2).permute(2, 0, 1)
        assert torch.linalg.det(jacobian).min() > 0.2

"""The shift that fits best, against shifts that were made."""

from __future__ import annotations

import pytest
import torch

from carl_cli.model.blur import blur
from carl_cli.registration.shift import best_shift

SHIFTS = [(5, -3, 4), (0, 0, 0), (-6, 2, -1), (4, -7)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_that_was_made_is_found(shift: tuple[int, ...]) -> None:
    """Channels with noise of a tenth, cut where the field of view ends."""
    draw = torch.Generator().manual_seed(3)
    shape = (20, 22, 24)[: len(shift)]
    large = blur(torch.randn(1, 4, *(n + 20 for n in shape), generator=draw), 1.0)
    large = large / large.std()

    def view(start: tuple[int, ...]) -> torch.Tensor:
        window = tuple(slice(10 + s, 10 + s + n) for s, n in zip(start, shape, strict=True))
        cut = large[(..., *window)]
        return cut + 0.1 * torch.randn(cut.shape, generator=draw)

    fixed, moving = view((0,) * len(shift)), view(tuple(-s for s in shift))
    everywhere = torch.ones_like(fixed[:, :1], dtype=torch.bool)
    assert best_shift(fixed, moving, everywhere, everywhere).tolist() == list(shift)


def test_a_part_is_found_in_the_whole_and_what_lies_around_it_does_not_count() -> None:
    draw = torch.Generator().manual_seed(5)
    whole = blur(torch.randn(1, 4, 24, 24, 24, generator=draw), 1.0)
    part = torch.full_like(whole, 7.0)
    part[..., 2:10, 4:12, 9:17] = whole[..., 12:20, 10:18, 3:11]
    seen = part[:, :1] != 7
    found = best_shift(whole, part, torch.ones_like(seen), seen)
    assert found.tolist() == [-10, -6, 6]
    assert best_shift(part, whole, seen, torch.ones_like(seen)).tolist() == [10, 6, -6]

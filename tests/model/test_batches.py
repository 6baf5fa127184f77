"""A batch of maps meets points that belong to no batch."""

from __future__ import annotations

import torch

from carl_cli.model.fields import ComposedMap, DisplacementMap, identity, sample
from carl_cli.model.regularity import gradicon

SHAPE = (9, 11)


def _map(batch: int, seed: int) -> DisplacementMap:
    noise = torch.randn(batch, 2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return DisplacementMap(0.01 * noise, align_corners=False)


def test_sampling_repeats_whichever_has_no_batch() -> None:
    values = torch.rand(3, 1, *SHAPE)
    points = identity(SHAPE, align_corners=False) * 0.9
    expected = torch.cat([sample(v[None], points, False) for v in values])
    torch.testing.assert_close(sample(values, points, False), expected, rtol=0, atol=0)


def test_gradicon_of_a_batch_is_the_mean_over_its_pairs() -> None:
    """Also where the inner map is composed, as a network's is."""
    forward, backward, step = _map(3, 1), _map(3, 2), _map(3, 3)

    def loss(pick: slice) -> torch.Tensor:
        a, b, c = (
            DisplacementMap(m.displacement_BDx[pick], align_corners=False)
            for m in (forward, backward, step)
        )
        generator = torch.Generator().manual_seed(5)
        return gradicon(a, ComposedMap(b, c), SHAPE, False, generator)

    singles = torch.stack([loss(slice(k, k + 1)) for k in range(3)])
    torch.testing.assert_close(loss(slice(0, 3)), singles.mean(), rtol=1e-5, atol=0)

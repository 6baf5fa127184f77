"""Similarities: the blur against scipy, and a window that serves every mode of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from carl_cli.model import similarity
from carl_cli.model.blur import blur
from carl_cli.model.similarity import lncc


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2, 3])
def test_blur_is_a_truncated_gaussian_with_zeros_outside(sigma: float) -> None:
    x = torch.rand(1, 2, 11, 9, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = x.numpy()
    for axis in (2, 3, 4):
        expected = gaussian_filter1d(
            expected, sigma, axis=axis, mode="constant", radius=int(np.ceil(2 * sigma))
        )
    np.testing.assert_allclose(blur(x, sigma).numpy(), expected, rtol=1e-6, atol=1e-9)


def test_a_window_made_without_gradients_serves_with_them() -> None:
    """A forward pass alone, then instance optimisation, in one process."""
    a, b = torch.rand(2, 1, 1, 17, 17, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        lncc(a, b, sigma=2)
    leaf = a.clone().requires_grad_()
    lncc(leaf, b, sigma=2).backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() > 0


@pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("shape", [(14, 15, 16), (21, 24)])
def test_few_volumes_serve_for_all_pairs(
    radius: int, dilation: int, shape: tuple[int, ...]
) -> None:
    """Away from the border, the channels are those of the distances pair by pair: 12, in 2D 4."""
    image = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1))
    pairs = similarity.neighbour_pairs(len(shape))
    assert len(pairs) == {3: 12, 2: 4}[len(shape)]
    distances = [similarity._patch_distance(image, p, q, radius, dilation) for p, q in pairs]
    distance = torch.cat(distances, 1)
    distance = distance - distance.amin(1, keepdim=True)
    expected = torch.exp(-distance / distance.mean(1, keepdim=True).clamp_min(1e-4))
    inner = (..., *[slice(radius + dilation, -radius - dilation)] * len(shape))
    found = similarity.self_similarity(image, radius, dilation, 1e-4)
    torch.testing.assert_close(found[inner], expected[inner], atol=1e-4, rtol=0)


def test_windows_within_a_mask_see_nothing_beside_it() -> None:
    """Weighted correlations voxel by voxel, and a gradient that ends at the mask."""
    draw = torch.Generator().manual_seed(3)
    a, b = torch.rand(2, 1, 1, 12, 11, generator=draw, dtype=torch.float64)
    mask = torch.rand(1, 1, 12, 11, generator=draw) > 0.3
    y, x = np.indices((12, 11))
    tap = [np.exp(-(np.arange(-4, 5) ** 2) / 8)] * 2
    kernel = np.outer(*tap)
    values = []
    for row, column in zip(*np.nonzero(mask[0, 0].numpy()), strict=True):
        near = (abs(y - row) <= 4) & (abs(x - column) <= 4) & mask[0, 0].numpy()
        share = kernel[y[near] - row + 4, x[near] - column + 4]
        covariance = np.cov(a[0, 0].numpy()[near], b[0, 0].numpy()[near], aweights=share, ddof=0)
        spread = np.diag(covariance) + similarity.VARIANCE_FLOOR
        values.append(covariance[0, 1] / np.sqrt(spread.prod()))
    leaf = a.clone().requires_grad_()
    loss = lncc(leaf, b, mask, sigma=2, within=True)
    assert loss.item() == pytest.approx(1 - np.mean(values), abs=1e-9)
    loss.backward()
    assert leaf.grad is not None
    assert (leaf.grad[~mask] == 0).all()
    assert (leaf.grad[mask] != 0).all()

"""Inverse consistency makes a registration exact (Appendix C.2), as bounds that can be tested.

Register an image with itself: Φ[I, I] = id + u. Let r = Φ∘Φ - id = u + u∘Φ be what there and
back leave, and L a Lipschitz constant of u. Then u∘Φ differs from u by L|u| at most, so that
|2u| ≤ |r| + L|u|, or

    |u| ≤ |r| / (2 - L)    for L < 2:

no error of inverse consistency, no error at all. (The condition is needed: a reflection has
L = 2, is its own inverse, and may map an image that is its own mirror image onto itself.) A
[W, U]-equivariant network carries this over to one image at two places: Φ[I∘U, I∘W] =
W⁻¹∘Φ[I, I]∘U, exactly so for shifts by whole voxels of Ξ.

`Symmetric` approaches inverse consistency as Newton's iteration approaches a square root of 1:
u becomes (u - u∘Φ⁻¹)/2, which is L|u|/2 at most, and its three rounds towards Φ⁻¹ leave L³|u|.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from carl_cli.model.attention import CoordinateAttention
from carl_cli.model.encoder import Encoder
from carl_cli.model.fields import identity, sample
from carl_cli.model.operators import Registrar, Symmetric

SIZE, SIDE, START = 40, 18, (11, 9)  # the grid, and the content on it
SHIFT = (6, -5)
FLOAT32 = 1e-4  # voxels: a row's sums of 3,600 positions


def _network(symmetrised: int) -> Registrar:
    """Ξ with random weights, made symmetric so many times. The features of empty ground point
    away from those of content, so that no weight falls on the ground."""
    torch.manual_seed(0)
    encoder = Encoder(2, 1, 96, 1)
    for parameter in encoder.blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.nn.init.constant_(encoder.blocks[0].norm.weight, 1.0)
    torch.nn.init.constant_(encoder.blocks[0].convs[-1].bias, -1.0)
    torch.nn.init.uniform_(encoder.stem.weight, -1.0, 1.0)
    torch.nn.init.zeros_(encoder.stem.bias)
    network: Registrar = CoordinateAttention(encoder.eval(), 10, False, sharpness=4.0)
    for _ in range(symmetrised):
        network = Symmetric(network, align_corners=False)
    return network


def _image(shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Random content on empty ground, `shift` voxels from where it starts."""
    image = torch.zeros(1, 1, SIZE, SIZE)
    values = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) + 1
    y, x = (a + s for a, s in zip(START, shift, strict=True))
    image[..., y : y + SIDE, x : x + SIDE] = values
    return image


@cache
def _error(symmetrised: int, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """(1, 2, 40, 40) error in voxels of an image registered with its shifted self."""
    with torch.inference_mode():
        phi = _network(symmetrised)(_image(), _image(shift)).on_grid((SIZE, SIZE))
    expected = identity((SIZE, SIZE), False) * SIZE + torch.tensor(shift).view(1, 2, 1, 1)
    return phi * SIZE - expected


def _within(field: Tensor, margin: int) -> Tensor:
    """The part of a field over the content, without its outer `margin` voxels."""
    y, x = START
    return field[..., y + margin : y + SIDE - margin, x + margin : x + SIDE - margin]


def _lipschitz(field: Tensor, margin: int) -> float:
    """Of linear interpolation over the content, in the maximum norm."""
    inner = _within(field, margin)
    rows, columns = (inner.diff(dim=axis).abs().amax((0, 2, 3)) for axis in (2, 3))
    return float((rows + columns).max())


@pytest.mark.parametrize("symmetrised", [0, 1, 3])
def test_a_shift_changes_the_error_nowhere(symmetrised: int) -> None:
    here, there = _error(symmetrised), _error(symmetrised, SHIFT)
    torch.testing.assert_close(_within(there, 3), _within(here, 3), rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("symmetrised", [1, 2, 3])
def test_the_error_is_bounded_by_the_error_of_inverse_consistency(symmetrised: int) -> None:
    u = _error(symmetrised)
    lipschitz = _lipschitz(u, 3)
    assert lipschitz < 2
    grid = identity((SIZE, SIZE), False)
    r = u + sample(u, grid + u / SIZE, align_corners=False)
    error, inconsistency = (_within(f, 4).abs().amax(1) for f in (u, r))
    assert bool((error <= inconsistency / (2 - lipschitz) + FLOAT32).all())
    assert error.max() > 10 * FLOAT32  # there is something to bound


@pytest.mark.parametrize("symmetrised", [1, 2])
def test_symmetric_makes_the_error_smaller_by_its_own_slope(symmetrised: int) -> None:
    before, after = _error(symmetrised), _error(symmetrised + 1)
    slope = _lipschitz(before, 3)
    bound = slope * (0.5 + slope**2) * _within(before, 3).abs().max()
    assert _within(after, 4).abs().max() <= bound + FLOAT32


def test_an_inverse_consistent_network_finds_an_integer_shift() -> None:
    """Two voxels off at first; below a hundredth once there and back agree."""
    largest = [float(_within(_error(k, SHIFT), 4).abs().max()) for k in range(4)]
    assert largest[0] > 1
    assert largest[3] < 0.01

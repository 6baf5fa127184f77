"""The parts that only uniCARL has, against closed forms and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from carl_cli.model.blur import blur_keeping_affine
from carl_cli.model.coarse import attention_of
from carl_cli.model.encoder import HalvingStem
from carl_cli.model.fields import ReflectedMap, identity
from carl_cli.model.network import (
    EncoderConfig,
    ModelConfig,
    UNetConfig,
    build_network,
)
from carl_cli.model.operators import Blurred, Kept

SHAPE = (9, 14, 11)
SMALL = ModelConfig(
    encoder=EncoderConfig(width=8, blocks=1, padding=8, dilations=(1, 1, 1), halvings=2),
    refine_scales=(2, 1),
    refine_unets=(4, 1),
    refine_blurs=(5, 2),
    unet=UNetConfig(down=(4, 6), up=(4, 5)),
    extrapolation="reflected",
)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))


def _affine(points: Tensor) -> Tensor:
    matrix = torch.tensor([[1.1, 0.05, 0.0], [-0.04, 0.9, 0.02], [0.0, 0.03, 1.08]])
    moved = torch.einsum("ij,bj...->bi...", matrix, points)
    return moved + torch.tensor([0.1, -0.2, 0.05]).view(1, 3, *[1] * (points.dim() - 2))


def _numpy_blur(x: np.ndarray, sigma: int) -> np.ndarray:
    """Twice the blur with edge values beyond the border, less the blur of the mirror image."""
    half = 3 * sigma // 2
    window = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    window /= window.sum()

    def blurred(mode: str) -> np.ndarray:
        y = np.pad(x, half, mode=mode)
        for axis in range(x.ndim):
            y = np.apply_along_axis(np.convolve, axis, y, window, mode="valid")
        return y

    return 2 * blurred("edge") - blurred("reflect")


@pytest.mark.parametrize("sigma", [1, 2, 5])
def test_the_blur_is_that_of_numpy(sigma: int) -> None:
    x = _noise(2, *SHAPE)
    found = blur_keeping_affine(x, sigma)[0]
    for channel, expected in zip(found, x[0], strict=True):
        assert np.abs(channel.numpy() - _numpy_blur(expected.double().numpy(), sigma)).max() < 1e-6


@pytest.mark.parametrize("sigma", [2, 8, 40])
def test_the_blur_keeps_affine_maps_on_any_grid(sigma: int) -> None:
    """Also where the window is wider than the grid, and along an axis of one voxel."""
    for shape in (SHAPE, (1, 3, 20)):
        phi = _affine(identity(shape, align_corners=True))
        torch.testing.assert_close(blur_keeping_affine(phi, sigma), phi, rtol=0, atol=2e-6)


def test_the_first_blur_without_gradients_leaves_later_ones_theirs() -> None:
    with torch.inference_mode():
        blur_keeping_affine(_noise(1, 7, 8, 9), 3)
    x = _noise(1, 7, 8, 9).requires_grad_()
    blur_keeping_affine(x, 3).sum().backward()
    assert x.grad is not None
    # An odd extension and a symmetric window: the sum's gradients add up to the voxels.
    assert x.grad.sum().item() == pytest.approx(7 * 8 * 9, rel=1e-5)


def test_a_reflected_map_goes_on_beyond_the_border() -> None:
    grid = identity(SHAPE, align_corners=True)
    phi = ReflectedMap(_affine(grid) - grid, align_corners=True)
    anywhere = 3 * _noise(3, 500) - 1  # from -1 to 2: as far as the image's mirror images reach
    torch.testing.assert_close(phi(anywhere), _affine(anywhere), rtol=0, atol=2e-5)


def test_a_reflected_map_is_point_symmetric_about_the_border() -> None:
    phi = ReflectedMap(_noise(3, *SHAPE), align_corners=True)
    inside, outside = (torch.tensor([[[x], [0.4], [0.7]]]) for x in (0.2, -0.2))
    border = torch.tensor([[[0.0], [0.4], [0.7]]])

    def moved(point: Tensor) -> Tensor:
        return phi(point) - point

    torch.testing.assert_close(moved(inside) + moved(outside), 2 * moved(border))


def test_blurred_smooths_both_directions() -> None:
    grid = identity(SHAPE, align_corners=True)
    maps = [ReflectedMap(_noise(3, *SHAPE, seed=k), align_corners=True) for k in (1, 2)]
    images = _noise(1, *SHAPE), _noise(1, *SHAPE)
    found = Blurred(Kept(*maps), 2, True, ReflectedMap).both_directions(*images)
    for smooth, rough in zip(found, maps, strict=True):
        expected = blur_keeping_affine(rough.displacement_BDx, 2) + grid
        torch.testing.assert_close(smooth.on_grid(SHAPE), expected, rtol=0, atol=1e-6)


def test_the_stem_is_two_convolutions_and_two_means() -> None:
    """A first convolution that takes each voxel, a second one that takes the next but drops
    beyond the end: means of four by four blocks, moved by one block of two."""
    stem = HalvingStem(2, 1, 4, halvings=2)
    for layer, place in zip(stem.convs, ((0, 0), (1, 1)), strict=True):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        layer.weight.data[:, 0, place[0], place[1]] = 1.0
    image = _noise(1, 8, 12)
    pairs = image.view(1, 1, 4, 2, 6, 2).mean((3, 5))
    moved = torch.zeros_like(pairs)
    moved[..., :-1, :-1] = pairs[..., 1:, 1:]
    expected = moved.view(1, 1, 2, 2, 3, 2).mean((3, 5)).expand(1, 4, 2, 3)
    torch.testing.assert_close(stem(image), expected)


def test_features_are_coarser_than_the_image_and_the_margin_too() -> None:
    attention = attention_of(build_network(SMALL))
    assert attention is not None
    images = _noise(1, 10, 12, 9), _noise(1, 10, 12, 9, seed=1)
    assert attention.features(images[0]).shape == (1, 8, 3 + 4, 3 + 4, 3 + 4)
    for phi in attention.both_directions(*images):
        assert phi.spread is not None
        assert phi.spread.shape == (1, 3, 3, 3, 3)


def test_a_network_of_the_family_trains_every_parameter_and_no_other() -> None:
    """Instance optimisation reaches through blurs and reflections to the encoder."""
    torch.manual_seed(0)
    network = build_network(SMALL)
    for name, parameter in network.named_parameters():
        if "last" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    forward, backward = network.both_directions(
        _noise(1, 24, 24, 24), _noise(1, 24, 24, 24, seed=1)
    )
    points = _noise(3, 300, seed=2) * 1.4 - 0.2
    (forward(points) + backward(points)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"refine_unets": (4,)}, "refine_unets: 2 expected"),
        ({"refine_blurs": (1, 2, 3)}, "refine_blurs: 2 expected"),
        ({"refine_blurs": (-1, 2)}, "greater than or equal to 0"),
        ({"refine_unets": (1, 1)}, "1 can't refine at scale 2"),
        ({"refine_unets": (6, 1)}, "6 can't refine at scale 2"),
        ({"encoder": {"halvings": 2, "padding": 9}}, "padding 9 is no multiple of 4"),
        ({"encoder": {"halvings": 2, "padding": 8, "width": 10}}, "width 10 is no multiple of 4"),
    ],
)
def test_descriptions_that_make_no_sense(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelConfig(**fields)  # type: ignore[arg-type]

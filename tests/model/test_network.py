"""The whole network: independent shifts of content, state, and descriptions of the family."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from carl_cli.model.coarse import attention_of, with_coarse
from carl_cli.model.fields import DisplacementMap, identity, sample
from carl_cli.model.network import (
    EncoderConfig,
    ModelConfig,
    UNetConfig,
    WindowConfig,
    build_network,
)
from carl_cli.model.operators import Kept, Registrar, Symmetric
from carl_cli.model.unet import OUTPUT_SCALE, DisplacementUNet
from tests.drawn import draw_apart_from_ground

SHAPE = (192, 32, 32)
CONFIG = ModelConfig(
    encoder=EncoderConfig(width=8, blocks=1, padding=9),
    unet=UNetConfig(down=(4, 6), up=(4, 5)),
    coordinates="centres",
)

STRIDE = 8  # voxels: the U-Net at half the grid halves twice more


def _network(config: ModelConfig = CONFIG) -> Registrar:
    torch.manual_seed(0)
    network = build_network(config)
    for name, parameter in network.named_parameters():
        if "last" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    attention = attention_of(network)
    assert attention is not None
    draw_apart_from_ground(attention.encoder)
    return network


def _noise(*shape: int, seed: int) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed)) + 1


def _block(at: int, seed: int) -> Tensor:
    """Random content of 16 voxels a side on empty ground; it starts at `at` of the long axis."""
    image = torch.zeros(1, 1, *SHAPE)
    image[:, :, at : at + 16, 8:24, 8:24] = _noise(16, 16, 16, seed=seed)
    return image


def _voxels(network: Registrar, fixed: Tensor, moving: Tensor) -> Tensor:
    """(1, 3, *SHAPE) where each fixed voxel goes, in voxels of the moving image."""
    with torch.inference_mode():
        phi = network(fixed, moving).on_grid(SHAPE)
    return phi * torch.tensor(SHAPE).view(1, 3, 1, 1, 1) - 0.5


def _along(shift: int) -> Tensor:
    return torch.tensor([shift, 0, 0]).view(1, 3, 1, 1, 1)


@pytest.mark.parametrize("shift", [-36, 4, 24])
def test_moving_content_takes_the_correspondence_along_by_multiples_of_4(shift: int) -> None:
    """Ξ sees the shift exactly, so Ψ sees the same warped image as before. The fixed image is
    full of content: empty ground has no partner that could move along."""
    network, fixed = _network(), _noise(*SHAPE, seed=1)
    before = _voxels(network, fixed, _block(80, 2))
    after = _voxels(network, fixed, _block(80 + shift, 2))
    torch.testing.assert_close(after, before + _along(shift), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shift", [-36, 24])
def test_windows_keep_the_equivariance(shift: int) -> None:
    """Window attention sees the fixed image and what Ξ warped: the same as before the shift."""
    window = WindowConfig(radius=2, smoothing=1, sharpness=2.0)
    config = CONFIG.model_copy(update={"window_scales": (2,), "window": window})
    network, fixed = _network(config), _noise(*SHAPE, seed=1)
    before = _voxels(network, fixed, _block(80, 2))
    after = _voxels(network, fixed, _block(80 + shift, 2))
    torch.testing.assert_close(after, before + _along(shift), rtol=0, atol=1e-3)
    without = _voxels(_network(), fixed, _block(80, 2))
    assert (before - without).abs().max() > 0.1


def test_symmetric_windows_leave_equal_images_in_place() -> None:
    encoder = EncoderConfig(width=8, blocks=1, padding=9, smoothing=1, sharpness=4.0)
    model = {"coarse_symmetric": True, "window_scales": (2,), "refine_scales": ()}
    network = _network(CONFIG.model_copy(update={**model, "encoder": encoder}))
    image = _block(80, 1)
    with torch.inference_mode():
        forward, backward = network.both_directions(image, image)
    assert torch.equal(forward.on_grid(SHAPE), backward.on_grid(SHAPE))
    moved = (forward.on_grid(SHAPE) - identity(SHAPE, False))[:, :, 84:92, 12:20, 12:20]
    assert (moved * torch.tensor(SHAPE).view(1, 3, 1, 1, 1)).abs().max() < 0.5


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_bias_of_both_directions_cancels_in_symmetric_refinements(symmetric: bool) -> None:
    """Each Ψ shifts whatever it sees by a tenth of a voxel: as no two directions that are inverse
    do, nothing of it is left."""
    still = DisplacementMap(torch.zeros(1, 3, 4, 4, 4), align_corners=False)
    network = with_coarse(
        _network(CONFIG.model_copy(update={"refine_symmetric": symmetric})), Kept(still, still)
    )
    for name, parameter in network.named_parameters():
        if "last" in name:
            torch.nn.init.constant_(parameter, 0.0)
            if name.endswith("bias"):
                parameter.data = 0.1 / torch.tensor(SHAPE) / OUTPUT_SCALE
    image = _noise(*SHAPE, seed=1)
    moved = _voxels(network, image, image) - _voxels(Kept(still, still), image, image)
    expected = torch.full_like(moved, 0.0 if symmetric else 0.2)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coarse": "unet"}, "attention"),
        ({"encoder": {"padding": 2}}, "radius 3"),
        ({"window_scales": (8,)}, "grow"),
        ({"window_scales": (2,), "refine_scales": (4,)}, "grow"),
    ],
)
def test_windows_that_can_not_look_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelConfig(**{"window_scales": (2,), **changes})


@pytest.mark.parametrize("shift", [-STRIDE, 2 * STRIDE])
def test_fixed_content_takes_the_correspondence_along_by_multiples_of_every_stride(
    shift: int,
) -> None:
    network, moving = _network(), _block(80, 2)
    before = _voxels(network, _block(80, 1), moving)[:, :, 80:96, 8:24, 8:24]
    after = _voxels(network, _block(80 + shift, 1), moving)
    window = after[:, :, 80 + shift : 96 + shift, 8:24, 8:24]
    torch.testing.assert_close(window, before, rtol=0, atol=1e-3)


def test_other_shifts_are_not_exact(capsys: pytest.CaptureFixture[str]) -> None:
    """Half a coarse voxel: shows that the exact cases above are not trivially so."""
    network, fixed = _network(), _noise(*SHAPE, seed=1)
    before = _voxels(network, fixed, _block(80, 2))
    change = _voxels(network, fixed, _block(82, 2)) - before - _along(2)
    median = float(change.norm(dim=1).median())
    with capsys.disabled():
        print(f"\nmedian change for a shift of 2 voxels: {median:.3f} voxels")
    assert 1e-3 < median < 4


def _displaced(shift: int) -> Tensor:
    """Displacements of Ψ around the content of two images that lie `shift` voxels farther on."""
    torch.manual_seed(0)
    network = DisplacementUNet(3, 1, (4, 6), (4, 5), align_corners=False).eval()
    torch.nn.init.normal_(network.last.weight, std=0.02)
    with torch.inference_mode():
        displacement = network.compute(_block(80 + shift, 1), _block(80 + shift, 2))
    return displacement[:, :, 76 + shift : 100 + shift] * SHAPE[0]


@pytest.mark.parametrize(("shift", "exact"), [(-8, True), (4, True), (2, False), (-5, False)])
def test_displacements_move_with_both_images_by_multiples_of_their_strides(
    shift: int, exact: bool
) -> None:
    """Eq. 13, of a network that halves twice: [U, U]-equivariant to shifts by 4 voxels."""
    before, after = _displaced(0), _displaced(shift)
    assert before.std() > 1e-3
    assert torch.allclose(after, before, rtol=0, atol=1e-5) is exact


def test_smoothing_keeps_the_equivariance() -> None:
    encoder = EncoderConfig(width=8, blocks=1, padding=9, smoothing=1)
    network = _network(CONFIG.model_copy(update={"encoder": encoder}))
    fixed = _noise(*SHAPE, seed=1)
    before = _voxels(network, fixed, _block(80, 2))
    after = _voxels(network, fixed, _block(88, 2))
    torch.testing.assert_close(after, before + _along(8), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(33, 21), (17, 30, 23)])
def test_any_grid_and_batch(shape: tuple[int, ...]) -> None:
    config = CONFIG.model_copy(update={"dimension": len(shape), "coordinates": "corners"})
    network = _network(config)
    fixed, moving = torch.rand(2, 3, 1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together = network(fixed, moving).on_grid(shape)
        alone = network(fixed[1:2], moving[1:2]).on_grid(shape)
    assert together.shape == (3, len(shape), *shape)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scales", [(1, 2), (3,), (8,)])
def test_scales_that_make_no_network_are_refused(scales: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="scales"):
        ModelConfig(refine_scales=scales)


def test_sampling_continues_the_border() -> None:
    image = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 3, 4)
    points = torch.tensor([[[0.5, 0.5, 0.5], [-3.0, 0.5, 7.0]]])
    for align_corners in (True, False):
        found = sample(image, points.view(1, 2, 3), align_corners)
        torch.testing.assert_close(found, torch.tensor([[[0.0, 1.5, 3.0]]]))


def _shrinking(scale: float, source: Tensor, target: Tensor) -> DisplacementMap:
    """x → target + scale (x - source) on a grid of 20 x 20 x 20."""
    grid = identity((20, 20, 20), align_corners=False)
    source, target = (c.view(1, 3, 1, 1, 1) for c in (source, target))
    return DisplacementMap(target + scale * (grid - source) - grid, align_corners=False)


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_symmetric_undoes_a_shrinking_of_both_directions(shift: float) -> None:
    """Two directions that shrink by s about their images' middles become (s + 1/s)/2 ≈ 1, and
    a shift of the moving image's middle passes through unchanged."""
    s, fixed, moving = 0.9, torch.full((3,), 0.5), torch.tensor([0.5 + shift, 0.45, 0.5])
    kept = Kept(_shrinking(s, fixed, moving), _shrinking(s, moving, fixed))
    image = torch.zeros(1, 1, 20, 20, 20)
    forward, backward = Symmetric(kept, align_corners=False).both_directions(image, image)
    inner = (..., *[slice(4, 16)] * 3)
    expected = _shrinking((s + 1 / s) / 2, fixed, moving).on_grid((20, 20, 20))
    there = forward.on_grid((20, 20, 20))
    torch.testing.assert_close(there[inner], expected[inner], rtol=0, atol=2e-4)
    there_and_back = backward(there)[inner]
    grid = identity((20, 20, 20), align_corners=False)
    torch.testing.assert_close(there_and_back, grid[inner], rtol=0, atol=6e-3)


def test_symmetric_leaves_equal_images_in_place() -> None:
    """Equal images give equal directions: whatever shrinking there is cancels to second order."""
    middle = torch.full((3,), 0.5)
    one_way = _shrinking(0.9, middle, middle)
    image = torch.zeros(1, 1, 20, 20, 20)
    forward = Symmetric(Kept(one_way, one_way), align_corners=False)(image, image)
    grid = identity((20, 20, 20), align_corners=False)
    inner = (..., *[slice(4, 16)] * 3)
    gap, plain = (
        float((m.on_grid((20, 20, 20)) - grid)[inner].abs().max()) for m in (forward, one_way)
    )
    assert gap < 0.06 * plain


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder": {"halvings": 10**20}},
        {"encoder": {"blocks": 10**9}},
        {"encoder": {"dilations": (1, 10**9)}},
        {"unet": {"down": (16,) * 40, "up": (16,) * 40}},
        {"coarse_scale": 2**60},
        {"refine_scales": (1,) * 10**4},
    ],
)
def test_a_description_can_not_ask_for_work_without_end(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"less than|at most"):
        ModelConfig(**fields)  # type: ignore[arg-type]

"""Errors of equivariance against closed forms: networks whose maps are known."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from carl_cli.evaluation.equivariance import (
    Motion,
    Views,
    dice_against_shift,
    enlarged,
    findings,
    layers_of,
    motions,
    staged_maps,
    views_of,
)
from carl_cli.io.images.files import Image, write_image
from carl_cli.model.coarse import attention_of
from carl_cli.model.fields import DisplacementMap, Map, identity
from carl_cli.model.network import (
    EncoderConfig,
    ModelConfig,
    UNetConfig,
    build_network,
)
from carl_cli.model.operators import Registrar
from carl_cli.preprocessing.pair import PreprocessRule, prepare_pair
from carl_cli.workflows.phantom import make_phantom
from tests.cli.conftest import Carl, carl  # noqa: F401 (a fixture)
from tests.cli.weights_folder import untrained_weights
from tests.drawn import draw_apart_from_ground

SHAPE = (24, 32, 40)
SPACING = (2.0, 2.0, 2.0)


class Nothing(Registrar):
    """The identity: what a displacement network does that notices no motion."""

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        return DisplacementMap(torch.zeros_like(identity(fixed.shape[2:], False)), False)


class Centroids(Registrar):
    """The translation that brings the two centres of mass together: follows every shift."""

    def forward(self, fixed: Tensor, moving: Tensor) -> Map:
        grid = identity(fixed.shape[2:], False)
        centres = [(image * grid).flatten(2).sum(2) / image.sum() for image in (fixed, moving)]
        return DisplacementMap((centres[1] - centres[0]).view(1, 3, 1, 1, 1).expand_as(grid), False)


def ball(centre: tuple[float, ...] = (11.5, 15.5, 19.5), radius: float = 6.0) -> Tensor:
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in SHAPE], indexing="ij"))
    away = (index - torch.tensor(centre).view(3, 1, 1, 1)).norm(dim=0)
    return torch.sigmoid(2 * (radius - away))[None, None]


def views() -> Views:
    return Views(ball(), ball((11.5, 17.5, 17.5), 5.0), SPACING, SPACING, False)


def shift(*mm: float) -> Motion:
    return Motion(np.eye(3), np.array(mm))


def test_motions_by_hand() -> None:
    """90 degrees about the middle of 40 mm; the inverse undoes scale and shift."""
    turn = Motion(np.array([[1, 0, 0], [0, 0, -1], [0, 1.0, 0]]), np.zeros(3))
    unit = torch.tensor([40.0, 40.0, 40.0])
    points = torch.tensor([0.5, 0.75, 0.5]).view(1, 3, 1)
    assert turn(points, unit).flatten().tolist() == pytest.approx([0.5, 0.5, 0.75])
    both = Motion(np.diag([0.5, 2.0, 1.0]), np.array([4.0, -8.0, 0]))
    moved = both(points, unit).flatten().tolist()
    assert moved == pytest.approx([0.6, 0.8, 0.5])
    back = both.inverse()(both(points, unit), unit)
    assert back.flatten().tolist() == pytest.approx([0.5, 0.75, 0.5])


def test_a_network_that_notices_nothing() -> None:
    """Φ = 1: no error if both images move alike; else W⁻¹ U is missed, by twice the shift."""
    tried = [("shift", shift(0, 3.0, -4.0)), ("scale", Motion(np.eye(3) * 0.9, np.zeros(3)))]
    found = {(f.motion, f.mode): f for f in findings(Nothing(), views(), tried)}
    for name in ("shift", "scale"):
        alike = found[name, "[U,U]"]
        assert (alike.mean_mm, alike.change_mm) == pytest.approx((0, 0), abs=1e-5)
        assert found[name, "[W,U]"].mean_mm == pytest.approx(found[name, "[W,U]"].change_mm)
    apart = found["shift", "[W,U]"]
    assert (apart.mean_mm, apart.max_mm) == pytest.approx((10.0, 10.0), rel=1e-5)
    assert apart.layer == "coarse"


def test_scales_by_closed_form() -> None:
    """Of x → c + s (x - c) both ways the change is |x - c| (1 - 1/s²), here over a ball."""
    scale = Motion(np.eye(3) * 0.8, np.zeros(3))
    same = Views(ball(), ball(), SPACING, SPACING, False)
    (found,) = [f for f in findings(Nothing(), same, [("", scale)]) if f.mode == "[W,U]"]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    away = np.linalg.norm((index - [11.5, 15.5, 19.5]) * 2.0, axis=-1)
    seen = away / 0.8 / 2.0  # U is the inverse: the fixed image is seen at x / 0.8
    inside = 1 / (1 + np.exp(-2 * (6.0 - seen))) > 0.05
    expected = (away[inside] * (1 / 0.64 - 1)).mean()
    assert found.change_mm == pytest.approx(expected, rel=0.02)


def test_a_network_that_follows_shifts() -> None:
    """Centres of mass follow independent shifts, whole or not, but no rotation about the middle
    of the grid that the moving ball is off by (0, 2, -2) voxels."""
    quarter = Motion(np.array([[1, 0, 0], [0, 0, -1], [0, 1.0, 0]]), np.zeros(3))
    tried = [("whole", shift(0, 4.0, -6.0)), ("part", shift(1.0, 0, 2.6)), ("turn", quarter)]
    found = {(f.motion, f.mode): f for f in findings(Centroids(), views(), tried)}
    for name in ("whole", "part"):
        assert found[name, "[W,U]"].max_mm == pytest.approx(0, abs=0.02)
        assert found[name, "[W,U]"].change_mm > 5
    assert found["turn", "[W,U]"].mean_mm > 5


def attention_network(windows: tuple[int, ...] = ()) -> Registrar:
    """Drawn weights; features of empty ground point away from those of content."""
    torch.manual_seed(0)
    config = ModelConfig(
        coarse_scale=2,
        coarse_symmetric=bool(windows),
        window_scales=windows,
        refine_scales=(1,),
        encoder=EncoderConfig(width=12, blocks=1, padding=9),
        unet=UNetConfig(down=(4, 6), up=(4, 5)),
        coordinates="centres",
    )
    network = build_network(config)
    attention = attention_of(network)
    assert attention is not None
    draw_apart_from_ground(attention.encoder)
    return network


def blocks(side: int = 40) -> Views:
    """Random content of 8 voxels a side on empty ground, in the middle."""
    images = []
    for seed in (1, 2):
        image = torch.zeros(1, 1, side, side, side)
        random = torch.Generator().manual_seed(seed)
        inside = (slice(side // 2 - 4, side // 2 + 4),) * 3
        image[0, 0][inside] = torch.rand(8, 8, 8, generator=random) + 1
        images.append(image)
    return Views(images[0], images[1], SPACING, SPACING, False)


def test_attention_is_exact_under_whole_voxels_of_its_own_grid() -> None:
    """Its voxel is 4 mm. Whole ones: exact to rounding, but at the blocks' rim, where the map is
    interpolated with that of empty ground. Half a voxel: other images, exact no longer."""
    tried = [("whole", shift(0, 0, 4.0)), ("half", shift(0, 0, 2.0))]
    found = list(findings(attention_network(), blocks(), tried))
    coarse = {(f.motion, f.mode): f for f in found if f.layer == "coarse"}
    assert coarse["whole", "[U,U]"].p95_mm < 1e-4
    assert coarse["whole", "[W,U]"].p95_mm < 1e-4
    assert coarse["whole", "[W,U]"].change_mm == pytest.approx(8.0, rel=1e-5)
    assert coarse["half", "[W,U]"].p95_mm > 1e-2
    layers = [f.layer for f in found if (f.motion, f.mode) == ("whole", "[W,U]")]
    assert layers == ["coarse", "after Ψ1"]


@pytest.mark.parametrize("windows", [(), (2,)])
def test_stages_end_with_the_network_s_own_map(windows: tuple[int, ...]) -> None:
    """Also where both directions are made each other's inverse, with and without windows."""
    network = attention_network(windows)
    torch.nn.init.normal_(network.second.last.weight, std=0.05)  # type: ignore[union-attr]
    seen = blocks(16)
    maps = staged_maps(network, seen.fixed, seen.moving)
    assert len(maps) == len(layers_of(network)) == 2 + len(windows)
    whole = network(seen.fixed, seen.moving).on_grid(seen.shape)
    torch.testing.assert_close(maps[-1].on_grid(seen.shape), whole, rtol=0, atol=0)
    for earlier in maps[:-1]:
        assert (earlier.on_grid(seen.shape) - whole).abs().max() > 1e-4
    if windows:
        first = network.first.inner
        half = [F.avg_pool3d(image, 2) for image in (seen.fixed, seen.moving)]
        torch.testing.assert_close(
            maps[1].on_grid(seen.shape), first(*half).on_grid(seen.shape), rtol=0, atol=0
        )


def test_names_of_layers() -> None:
    small = {"encoder": EncoderConfig(width=4, blocks=1), "unet": UNetConfig(down=(4,), up=(4,))}
    assert layers_of(build_network(ModelConfig(**small))) == ["coarse", "after Ψ1", "after Ψ2"]
    windows = ModelConfig(**small, window_scales=(4, 2), refine_scales=(2,))
    expected = ["coarse", "after window 1", "after window 2", "after Ψ1"]
    assert layers_of(build_network(windows)) == expected
    alone = ModelConfig(**small, refine_scales=(), coarse_symmetric=True)
    assert layers_of(build_network(alone)) == ["coarse"]


def test_the_motions_that_are_tried() -> None:
    tried = dict(motions(3, 8.0))
    assert len(tried) == 8
    shifts = [m.shift_mm[-1] for m in tried.values() if m.shift_mm.any()]
    assert shifts == [8.0, 16.0, 4.0, 2.0]
    determinants = [np.linalg.det(m.matrix) for m in tried.values()]
    assert determinants == pytest.approx([1, 1, 1, 1, 0.729, 1.331, 1, 1])


def test_room_moves_nothing() -> None:
    """A voxel more at both ends keeps the middle: mm about the middle are the same."""
    image = ball()
    wide = enlarged(image, 2)
    assert wide.shape[2:] == (26, 34, 42)
    torch.testing.assert_close(wide[..., 1:-1, 1:-1, 1:-1], image)


def boxes(at: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.int64)
    labels[6:14, 8:18, at : at + 10] = 3
    return labels


def test_dice_against_shift_by_closed_form() -> None:
    """A box 10 voxels long: without following, Dice is 1 - shift/10; with, it stays 1."""
    labels = boxes(12)
    image = torch.from_numpy(labels[None, None] / 3.0).float()
    seen = Views(image, image, SPACING, SPACING, False)
    networks = {"still": Nothing(), "follows": Centroids()}
    scores = list(dice_against_shift(networks, seen, (labels, labels), [0.0, 4.0, 10.0, 100.0]))
    dice = {(s.network, s.shift_mm): s.dice for s in scores}
    for mm, expected in ((0.0, 1.0), (4.0, 0.8), (10.0, 0.5), (100.0, 0.0)):
        assert dice["none", mm] == dice["still", mm] == pytest.approx(expected)
        assert dice["follows", mm] == pytest.approx(1.0)


def test_a_displacement_is_as_many_voxels_on_the_longer_grid() -> None:
    """A Ψ that moves everything by 5 voxels, 10 mm, on the pair's own grid: what is shifted by
    as much fits, however long the grid is; what is shifted by more or less does not."""
    config = ModelConfig(
        coarse="unet",
        coarse_scale=1,
        refine_scales=(),
        unet=UNetConfig(down=(2,), up=(2,)),
        coordinates="centres",
    )
    network = build_network(config)
    with torch.no_grad():
        network.last.bias[-1] = 10 * 5 / SHAPE[-1]  # type: ignore[index,operator]
    labels = boxes(12)
    image = torch.from_numpy(labels[None, None] / 3.0).float()
    seen = Views(image, image, SPACING, SPACING, False)
    for largest in (20.0, 100.0):
        scores = dice_against_shift(
            {"psi": network}, seen, (labels, labels), [0.0, 10.0, 20.0, largest]
        )
        dice = [s.dice for s in scores if s.network == "psi"]
        assert dice[:3] == pytest.approx([0.5, 1.0, 0.5])
    alone = network(image, image).on_grid(SHAPE)
    moved = (alone - identity(SHAPE, False))[0, -1] * SHAPE[-1]
    torch.testing.assert_close(moved, torch.full(SHAPE, 5.0))


def test_views_of_a_prepared_pair() -> None:
    phantom = make_phantom(seed=1, voxel_mm=15.0)
    rule = PreprocessRule(grid_rule="physical", max_voxels=32**3, multiple_of=16)
    pair = prepare_pair(phantom.fixed, phantom.moving, rule)
    found = views_of(pair, False, extra_voxels=0)
    assert found.shape == pair.fixed.grid.shape_zyx
    assert found.moving_spacing_mm == pair.moving.grid.spacing_mm[::-1]


@pytest.fixture(scope="module")
def phantom_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("phantom")
    phantom = make_phantom(seed=1, voxel_mm=15.0)
    images: dict[str, Image] = {
        "fixed": phantom.fixed,
        "moving": phantom.moving,
        "fixed_seg": phantom.fixed_labels,
        "moving_seg": phantom.moving_labels,
    }
    for name, image in images.items():
        write_image(folder / f"{name}.nii.gz", image)
    return {name: folder / f"{name}.nii.gz" for name in images}


def test_the_command(carl: Carl, phantom_files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    weights = untrained_weights(tmp_path / "weights")
    out = tmp_path / "e.json"
    pair = (phantom_files["fixed"], phantom_files["moving"])
    outcome = carl("evaluate", "equivariance", *pair, "--weights", weights, "-o", out, "--side", 16)
    assert outcome.code == 0, outcome.err
    content = json.loads(out.read_text())
    assert content["weights"] == "untrained"
    assert len(content["findings"]) == 8 * 2 * 3
    assert all(f["mean_mm"] <= f["p95_mm"] <= f["max_mm"] for f in content["findings"])
    alike = [f for f in content["findings"] if f["mode"] == "[U,U]"]
    assert all(f["change_mm"] == pytest.approx(0, abs=1e-4) for f in alike)


def test_the_command_of_shifts(carl: Carl, phantom_files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    weights = untrained_weights(tmp_path / "weights")
    files = [phantom_files[name] for name in ("fixed", "moving")]
    segs = [w for n in ("fixed", "moving") for w in (f"--{n}-seg", phantom_files[f"{n}_seg"])]
    figure = tmp_path / "f.svg"
    options = ("--weights", weights, "--to", 30, "--step", 15, "--side", 16, "--figure", figure)
    outcome = carl("evaluate", "shifts", *files, *segs, *options)
    assert outcome.code == 0, outcome.err
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert [(r["network"], r["shift_mm"]) for r in rows] == [
        (name, mm) for mm in ("0.0", "15.0", "30.0") for name in ("none", "untrained")
    ]
    text = figure.read_text()
    assert all(word in text for word in ("none", "untrained", "shift mm", "dice"))
    again = carl("evaluate", "shifts", *files, *segs, *options)
    assert (again.code, "exists already" in again.err) == (7, True)
    same = carl("evaluate", "shifts", *files, *segs, "--weights", weights, "--baseline", weights)
    assert (same.code, "can't be compared" in same.err) == (2, True)

"""Fig. 3's data, one training run in seconds, and its table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from examples.paper import retina, vessels
from examples.paper.retina import Experiment, cells, gathered, report
from examples.paper.retina_fitting import Cell, DrawnPairs, RetinaConfig, fit, training
from examples.paper.vessels import CANVAS_YX, SETS, SHIFT_ROWS, VesselSet, dice, make_pairs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(retina.__file__).parent


def _config(**changes: object) -> RetinaConfig:
    values = tomllib.loads((FOLDER / "retina-quick.toml").read_text())
    return RetinaConfig.model_validate({**values, **changes})


def _tiny() -> RetinaConfig:
    return _config(
        reduction=24,
        warps=1,
        test_warps=1,
        diffusion_steps=1,
        gradicon_steps=2,
        encoder={"width": 4, "blocks": 1, "padding": 2},
        unet={"down": [2, 2], "up": [2, 2]},
    )


def _disc(radius: float = 150.0) -> Tensor:
    """A map that is a disc in the middle of 568 × 576 pixels."""
    y, x = torch.meshgrid(torch.arange(568.0), torch.arange(576.0), indexing="ij")
    return ((y - 283.5) ** 2 + (x - 287.5) ** 2 < radius**2).float()[None, None]


def _centre_and_area(image: Tensor) -> tuple[float, float]:
    """Row of the centre of gravity and the area, both in reduced pixels."""
    rows = torch.arange(image.shape[-2]).float()
    return float((image.sum(-1) * rows).sum() / image.sum()), float(image.sum())


def test_the_shift_and_the_scale_are_those_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without random warps: 200 rows, and 80 % about the middle of the canvas."""
    monkeypatch.setattr(vessels, "WARPS", ((0.0, 3), (0.0, 6)))
    plain, shifted, shrunk = (make_pairs(_disc(), k, 1, 8, 0)[0] for k in SETS.values())
    (row, area), (low, low_area), (small, small_area) = map(
        _centre_and_area, (plain, shifted, shrunk)
    )
    middle = CANVAS_YX[0] / 8 / 2 - 0.5
    assert low - row == pytest.approx(SHIFT_ROWS / 8, abs=1e-3)
    assert small - middle == pytest.approx(0.8 * (low - middle), abs=1e-3)
    assert low_area == pytest.approx(area, rel=1e-5)
    assert small_area == pytest.approx(0.64 * area, rel=1e-3)


def test_warps_have_the_standard_deviation_of_the_paper() -> None:
    """25 pixels on 3 × 3 points: so much at the middle point, within three standard errors
    of a deviation, σ/√(2n)."""
    generator = torch.Generator().manual_seed(0)
    fields = [vessels._random_field(generator, *vessels.WARPS[0]) for _ in range(30)]
    middle = torch.stack([f[0, :, 384, 288] for f in fields])
    assert float(middle.std()) == pytest.approx(25, abs=3 * 25 / np.sqrt(2 * middle.numel()))


def test_the_moving_image_is_the_map_itself() -> None:
    _, moving = make_pairs(_disc(), VesselSet(), 2, 4, seed=0)
    assert moving.shape == (2, 1, CANVAS_YX[0] // 4, CANVAS_YX[1] // 4)
    assert float(moving[0].sum()) * 16 == float(_disc().sum())
    torch.testing.assert_close(moving[0], moving[1])


def test_dice_of_half_a_disc_is_two_thirds() -> None:
    whole = _disc()
    half = whole.clone()
    half[..., 288:] = 0
    assert float(dice(whole, half)) == pytest.approx(2 / 3, abs=1e-3)
    assert bool(dice(0 * whole, 0 * whole).isnan())


def test_a_cell_learns_by_the_recipe_of_the_paper() -> None:
    """Eq. 17, then Eq. 18, both with λ = 1.5; the weights that are tested are the last ones."""
    config = training(_tiny(), Cell("CARL", "shift", 3))
    first, second = config.stages
    assert [s.loss.regulariser for s in config.stages] == ["diffusion", "gradicon"]
    assert (first.steps, second.steps) == (1, 2)
    for stage in config.stages:
        assert (stage.loss.similarity, stage.loss.regularity, stage.loss.sigma) == (1.0, 1.5, 4)
        assert (stage.learning_rate, stage.batch, stage.clip_norm) == (2e-3, 4, 1.0)
    assert config.keeping.average_decay == 0
    assert config.seed == 3


def test_a_trained_cell_is_found_again(tmp_path: Path) -> None:
    config, cell = _tiny(), Cell("CARL", "shift", 0)
    pairs = make_pairs(_disc(), SETS["shift"], 3, config.reduction, 0)
    lines: list[str] = []
    first = fit(config, cell, pairs, tmp_path, lines.append)
    assert [line.split(" loss")[0] for line in lines] == [
        "CARL-shift-0 step 1/1",
        "CARL-shift-0 step 2/2",
    ]
    again = fit(config, cell, pairs, tmp_path, lines.append)
    assert len(lines) == 2
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pairs_are_drawn_by_seed_and_number() -> None:
    """Each pair as often as any other: 200 draws of 4, within four standard deviations."""
    images = torch.arange(4.0).view(4, 1, 1, 1)
    drawn = [DrawnPairs(images, -images, seed=0).pair(k) for k in range(200)]
    values = [int(pair.fixed) for pair in drawn]
    assert all(float(pair.moving) == -float(pair.fixed) for pair in drawn)
    assert [int(DrawnPairs(images, -images, 0).pair(k).fixed) for k in range(200)] == values
    assert [int(DrawnPairs(images, -images, 1).pair(k).fixed) for k in range(200)] != values
    spread = 4 * np.sqrt(200 * 0.25 * 0.75)
    assert all(abs(values.count(value) - 50) < spread for value in range(4))


def test_a_cell_is_trained_on_real_maps_and_tested_on_all_sets(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps: the maps still do to a map what a warp does, and Dice is what it was. One test
    map, as it is and upside down."""
    monkeypatch.setattr(retina, "TRAINING", range(21, 24))
    monkeypatch.setattr(retina, "TEST", range(1, 2))
    experiment = Experiment(_tiny(), data_dir / "retina_vessels", tmp_path)
    cell = Cell("displacement", "baseline", 0)
    experiment.run(cell)
    before, after = (
        np.array([experiment.results[n][k] for k in SETS]) for n in ("before", cell.name)
    )
    assert after.shape == (3, 2)
    assert before[0].min() > 1.5 * before[1:].max()  # the baseline overlaps already
    np.testing.assert_allclose(after, before, atol=0.1)  # three steps from the identity
    report(experiment.results, tmp_path)
    row = (tmp_path / "table.md").read_text().splitlines()[-1]
    means = [f"{m:.3f}" for m in after.mean(axis=1)]
    assert row == f"| displacement | baseline | 1 | {' | '.join(means)} |"


def test_every_cell_of_the_figure_is_run_and_found_again() -> None:
    names = [cell.name for cell in cells(_config(seeds=[0, 1]))]
    assert len(names) == len(set(names)) == 3 * 3 * 2
    assert len({name.rpartition("-")[0] for name in names[:9]}) == 9
    results = {name: {kind: [k / 10] for kind in SETS} for k, name in enumerate(names)}
    found = gathered(results)
    assert len(found) == 27
    assert found["attention", "scale shift", "shift"] == [[0.7], [1.6]]


@pytest.mark.parametrize("name", ["retina.toml", "retina-quick.toml", "retina-full.toml"])
def test_the_configs_are_whole_and_pixels_divide(name: str) -> None:
    config = RetinaConfig.model_validate(tomllib.loads((FOLDER / name).read_text()))
    assert set(config.networks) == {"CARL", "attention", "displacement", "single"}
    assert all(n % (4 * config.reduction) == 0 for n in CANVAS_YX)

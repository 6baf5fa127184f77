"""The terms of a stage: which pairs they use, how they add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from carl_cli.model.coarse import attention_of
from carl_cli.model.fields import ComposedMap, DisplacementMap, identity, sample
from carl_cli.model.layers import pooled
from carl_cli.model.network import build_network
from carl_cli.model.regularity import diffusion, gradicon
from carl_cli.model.similarity import lncc, local_correlation
from carl_cli.training import losses as losses_module
from carl_cli.training import objective as objective_module
from carl_cli.training.config import TrainConfig, model_at
from carl_cli.training.data import training_pairs
from carl_cli.training.losses import Rows, common_labels, soft_dice, to_voxels
from carl_cli.training.objective import Objective, _refinement_energies
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair
from tests.training.conftest import EASY, TINY_MODEL

ALL = {"similarity": 2.0, "sigma": 2, "dice": 3.0, "field": 0.5, "regularity": 0.7}
ALL |= {"attention": 0.2, "position": 0.4, "same_label": 0.6, "refinement": 0.1}


def evaluated(
    config: TrainConfig, pick: Callable[[Pair], bool], count: int = 1
) -> tuple[float, dict[str, float], list[Pair]]:
    """Loss, terms and the first `count` pairs that `pick` takes."""
    stage = config.stages[0]
    source = training_pairs(config, stage, torch.device("cpu"))
    pairs = [p for p in map(source.pair, range(60)) if pick(p)][:count]
    torch.manual_seed(0)
    network = build_network(config.model).train()
    objective = Objective(network, stage, config.model)
    loss, terms = objective(pairs, Chance(0))
    return float(loss.detach()), {k: float(v) for k, v in terms.items()}, pairs


def test_a_known_pair_of_one_contrast_uses_every_term_but_one(
    make_config: Callable[..., TrainConfig],
) -> None:
    config = make_config([{"loss": ALL}])
    loss, terms, _ = evaluated(config, lambda p: p.phi is not None and p.contrast == "same")
    weights: dict[str, Any] = {k: ALL[k] for k in terms if k != "median_error"}
    assert set(weights) == set(ALL) - {"same_label", "sigma"}
    assert loss == pytest.approx(sum(w * terms[k] for k, w in weights.items()), rel=1e-5)


def _expected_terms(config: TrainConfig, pair: Pair) -> dict[str, float]:
    """Each from its definition: similarity summed over both directions, regularity their mean."""
    torch.manual_seed(0)
    network = build_network(config.model).train()
    loss, align = config.stages[0].loss, config.model.align_corners
    ahead, back = network.both_directions(pair.fixed, pair.moving)
    shape = pair.fixed.shape[2:]
    phi, phi_back = ahead.on_grid(shape), back.on_grid(shape)
    alike = []
    for image, other, map_, seen, seen_there in (
        (pair.fixed, pair.moving, phi, pair.fixed_visible, pair.moving_visible),
        (pair.moving, pair.fixed, phi_back, pair.moving_visible, pair.fixed_visible),
    ):
        both_see = seen & (sample(seen_there.float(), map_, align) > 0.5)
        windows = local_correlation(image, sample(other, map_, align), loss.sigma)
        alike.append(1 - float(windows[both_see].mean()))
        assert abs(float(windows[both_see].mean() - windows.mean())) > 1e-3
    grid = identity(shape, align)
    bent = [float(diffusion(map_, grid)) for map_ in (phi, phi_back)]
    chance = Chance(0).host_generator
    cycle = float(gradicon(ahead, back, shape, align, chance, loss.gradicon_stride))
    regular = {"diffusion": sum(bent) / 2, "gradicon": cycle}[loss.regulariser]
    assert abs(alike[0] - alike[1]) > 1e-4  # one direction alone would be seen
    assert abs(bent[0] - bent[1]) > 1e-4 * bent[0]
    return {"similarity": sum(alike), "regularity": regular}


@pytest.mark.parametrize("sigma", [2, 4])
@pytest.mark.parametrize("regulariser", ["diffusion", "gradicon"])
def test_similarity_and_regularity_are_those_of_their_definitions(
    make_config: Callable[..., TrainConfig], sigma: int, regulariser: str
) -> None:
    """Windows of σ voxels where both images see something, both directions, and λ as it stands in
    the config."""
    weights = {"similarity": 1.0, "sigma": sigma, "regularity": 3.0, "regulariser": regulariser}
    cropped = {"kind": "synthetic", "synthesis": {**EASY, "crop_fraction": 1.0}}
    config = make_config([{"loss": weights}], data=cropped)
    loss, terms, pairs = evaluated(config, lambda p: p.contrast == "same")
    expected = _expected_terms(config, pairs[0])
    assert terms["similarity"] == pytest.approx(expected["similarity"], abs=1e-5)
    assert terms["regularity"] == pytest.approx(expected["regularity"], rel=1e-4)
    total = expected["similarity"] + 3.0 * expected["regularity"]
    assert loss == pytest.approx(total, rel=1e-4)


def test_dice_is_the_mean_of_both_directions(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config([{"loss": {"dice": 1.0, "dice_labels": 1000}}])
    _, terms, (pair,) = evaluated(config, lambda p: p.phi is not None)
    torch.manual_seed(0)
    network = build_network(config.model).train()
    align, fixed, moving = config.model.align_corners, pair.fixed_labels, pair.moving_labels
    labels = common_labels(Chance(0), fixed, moving, 1000)
    maps = [
        m.on_grid(pair.fixed.shape[2:]) for m in network.both_directions(pair.fixed, pair.moving)
    ]
    ahead = float(soft_dice(fixed, moving, maps[0], pair.fixed_visible, labels, align))
    back = float(soft_dice(moving, fixed, maps[1], pair.moving_visible, labels, align))
    assert abs(ahead - back) > 1e-4
    assert terms["dice"] == pytest.approx((ahead + back) / 2, abs=1e-5)


def test_two_people_of_unrelated_contrast_use_labels_only(
    make_config: Callable[..., TrainConfig],
) -> None:
    config = make_config([{"loss": ALL}])
    _, terms, _ = evaluated(config, lambda p: p.phi is None and p.contrast == "unrelated")
    assert set(terms) == {"dice", "regularity", "refinement", "same_label"}


def test_the_loss_of_a_batch_is_the_mean_over_its_pairs(
    make_config: Callable[..., TrainConfig],
) -> None:
    loss = {"field": 1.0, "similarity": 1.0, "sigma": 2}
    config = make_config([{"loss": loss, "batch_norm": "frozen"}])
    known = evaluated(config, lambda p: p.phi is not None and p.contrast == "same")
    labels = evaluated(config, lambda p: p.phi is None and p.contrast == "same")
    chosen = [*known[2], *labels[2]]
    images = [p.fixed for p in chosen]
    both = evaluated(config, lambda p: any(torch.equal(p.fixed, i) for i in images), count=2)
    # Ξ's batch norm is the only thing that pairs share; at a batch of two it is in training
    # mode here, hence the tolerance.
    assert both[0] == pytest.approx((known[0] + labels[0]) / 2, rel=0.05)


def test_refinement_energy_is_that_of_each_displacement() -> None:
    shape = (6, 6, 6)
    linear = torch.zeros(1, 3, *shape)
    linear[0, 0] = torch.arange(6.0)[:, None, None] / 6 * 0.5  # du/dz = 0.5 voxel per voxel
    coarse, flat = DisplacementMap(linear * 3, False), DisplacementMap(linear * 0, False)
    map_ = ComposedMap(ComposedMap(coarse, DisplacementMap(linear, False)), flat)
    energies = [float(e) for e in _refinement_energies(map_)]
    assert energies == pytest.approx([0.0, 0.25 / 3])  # mean over three components


@pytest.mark.parametrize(
    ("levels", "halvings", "grid"), [(None, 0, 4), (0, 0, 16), (1, 0, 8), (None, 1, 2)]
)
def test_rows_are_those_of_the_network_that_runs(
    levels: int | None,
    halvings: int,
    grid: int,
    make_config: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the grid, margin and sharpness of Ξ as the stage runs it, against the right places."""
    encoder = {"width": 8, "blocks": 1, "padding": 4, "halvings": halvings, "sharpness": 2.0}
    model = {**TINY_MODEL, "coarse_scale": 4, "refine_scales": (2, 1), "encoder": encoder}
    stage = {"kind": "correspondence", "loss": {"position": 1.0, "queries": 8**3}, "levels": levels}
    config = make_config([stage], model=model)
    described = model_at(config, 0)
    torch.manual_seed(0)
    network = build_network(described)
    seen: list[tuple[Rows, torch.Tensor]] = []
    measured = objective_module.attention_to_place

    def noted(rows: Rows, places: torch.Tensor) -> object:
        seen.append((rows, places))
        return measured(rows, places)

    monkeypatch.setattr(objective_module, "attention_to_place", noted)
    monkeypatch.setattr(losses_module, "LEAST_QUERIES", 1)
    pair = still_pair()
    with torch.no_grad():
        Objective(network, config.stages[0], described)([pair], Chance(0))
        images = (pooled(image, described.coarse_scale) for image in (pair.fixed, pair.moving))
        coarse = attention_of(network)
        assert coarse is not None
        found = to_voxels(coarse(*images).on_grid((grid,) * 3), (grid,) * 3, False)
    ((rows, places),) = seen
    assert rows.shape == (grid,) * 3
    voxels = torch.stack(torch.meshgrid(*[torch.arange(float(grid))] * 3, indexing="ij"))
    torch.testing.assert_close(places, voxels.flatten(1).T[rows.index])
    expected = found[0].flatten(1).T[rows.index]
    torch.testing.assert_close(rows.mean, expected, atol=1e-4, rtol=0)


def still_pair(fixed: Tensor | None = None, moving: Tensor | None = None) -> Pair:
    """Two images (random ones) that correspond voxel by voxel, all of them seen."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(2, 1, 1, 16, 16, 16, generator=generator)
    fixed, moving = (drawn[0] if fixed is None else fixed, drawn[1] if moving is None else moving)
    ones = torch.ones_like(fixed, dtype=torch.long)
    axes = [torch.arange(float(n)) for n in fixed.shape[2:]]
    phi = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    seen = ones > 0
    return Pair(fixed, moving, ones, ones, seen, seen, "same", True, phi, seen)


@pytest.mark.parametrize("regulariser", ["diffusion", "gradicon"])
def test_the_loss_is_the_sum_of_the_paper(
    regulariser: str, make_config: Callable[..., TrainConfig]
) -> None:
    """Eq. 17 (averaged over both orders of the pair) and 18, term by term."""
    loss = {"similarity": 1.0, "sigma": 4, "regularity": 1.5, "regulariser": regulariser}
    config = make_config([{"loss": loss}])
    torch.manual_seed(0)
    network = build_network(config.model)
    pair, shape = still_pair(), (16, 16, 16)
    with torch.no_grad():
        found, _ = Objective(network, config.stages[0], config.model)([pair], Chance(0))
        there, back = network(pair.fixed, pair.moving), network(pair.moving, pair.fixed)
        phi, phi_back = there.on_grid(shape), back.on_grid(shape)
        alike = lncc(pair.fixed, sample(pair.moving, phi, False), sigma=4)
        alike = alike + lncc(pair.moving, sample(pair.fixed, phi_back, False), sigma=4)
        grid = identity(shape, False)
        regular = (diffusion(phi, grid) + diffusion(phi_back, grid)) / 2
        if regulariser == "gradicon":
            regular = gradicon(there, back, shape, False, Chance(0).host_generator)
    assert float(found) == pytest.approx(float(alike + 1.5 * regular), rel=1e-5)

"""Stages of kind `tissues`: their loss beside a plain one, that they learn, resume and export."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from carl_cli.errors import InputError
from carl_cli.model.execution import set_execution
from carl_cli.model.tissues import TissueConfig, TissueNetwork, self_similar
from carl_cli.training.config import TrainConfig
from carl_cli.training.data import training_pairs
from carl_cli.training.export import export
from carl_cli.training.loop import train
from carl_cli.training.run_folder import load_state
from carl_cli.training.synthesis.appearance import random_contrast
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.shapes import LabelMap, load_label_maps
from carl_cli.training.tables import StageConfig, TissueClass
from carl_cli.training.tissues import (
    KeptImages,
    Shown,
    TaughtTissues,
    TissueObjective,
    class_of_label,
    coarse_entropy,
    fine_terms,
)
from carl_cli.weights.folder import load_weights, save_weights
from tests.cli.weights_folder import untrained_weights
from tests.training.test_loop import records, same_bits

WHITE, RIGHT_WHITE, GREY, SKULL = 2, 41, 3, 515
VALUES = [0, WHITE, GREY, RIGHT_WHITE, SKULL]
CLASSES = [{"name": "white matter", "label": WHITE}, {"name": "grey matter", "label": GREY}]
NETWORK = TissueConfig(
    classes=("air", "no brain", "white matter", "grey matter"), widths=(16, 16, 16)
)
SIDE = 32


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Three heads: a skull around grey matter around white matter, left and right."""
    heads = {f"subject{k}": head(1 + 0.04 * k) for k in range(3)}
    tables = {"values": VALUES, "tissue": [0, 1, 2, 1, 4], "inner": [0, 1, 1, 1, 0]}
    t1 = np.array([0, 0.8, 0.5, 0.8, 0.2], np.float32)
    arrays = {name: np.array(values) for name, values in tables.items()}
    arrays["inner"] = arrays["inner"].astype(bool)
    np.savez(tmp_path / "maps.npz", **heads, **arrays, t1=t1, axes="LPS")  # type: ignore[arg-type]
    return tmp_path / "maps.npz"


def head(stretched: float) -> np.ndarray:
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    radius = np.sqrt((z * stretched) ** 2 + y**2 + x**2)
    labels = np.select([radius < 0.45, radius < 0.7, radius < 0.95], [1, 2, 4], 0)
    return np.where((labels == 1) & (x > 0), 3, labels).astype(np.uint8)


@pytest.fixture
def configured(
    make_config: Callable[..., TrainConfig], maps: Path, tmp_path: Path
) -> Callable[..., TrainConfig]:
    """configured(stage changes, **changes of the run)."""
    untrained_weights(tmp_path / "beside")

    def build(stage: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
        loss = {"classes": 1.0, "dice": 1.0, "coarse_classes": 0.5}
        values = {"kind": "tissues", "shape_zyx": (SIDE,) * 3, "fresh_every": 2, "loss": loss}
        synthesis: dict[str, Any] = {
            "same_map_fraction": 0.0,
            "t1_fraction": 1.0,
            "fill": (0.9, 1.0),
        }
        synthesis |= {"real_fraction": 0.9, "scale": (0.95, 1.05), "rotation_degrees": 5.0}
        synthesis |= dict.fromkeys(("turn_fraction", "crop_fraction", "strip_fraction"), 0.0)
        synthesis |= {
            "slab_fraction": 0.0,
            "translation": 0.03,
            "degradation": 0.3,
            "bend": (0.0, 0.2),
        }
        people = {"train": ["subject0", "subject1"], "validation": ["subject2"]}
        data = {"kind": "synthetic", "maps": maps, "synthesis": synthesis, **people}
        run = {
            "model": {},
            "initial": str(tmp_path / "beside"),
            "data": data,
            "tissues": {"classes": CLASSES, "widths": NETWORK.widths},
        }
        return make_config([values | (stage or {})], **{**run, **changes})

    return build


def example() -> tuple[Tensor, Tensor, Shown]:
    """Logits at a half and at a quarter, and an image half of which is visible."""
    g = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 4, (1, 1, 16, 8, 8), generator=g)
    visible = torch.rand(1, 1, 16, 8, 8, generator=g) < 0.5
    fine = torch.randn(8 * 4, 8, 4, 4, generator=g)
    coarse = torch.randn(4, 4, 2, 2, generator=g)
    return fine, coarse, Shown(torch.zeros(1), classes.byte(), visible)


def unpacked(blocks: Tensor) -> Tensor:
    """(8 C, z, y, x) → (C, 2 z, 2 y, 2 x): voxel by voxel what `packed` put together."""
    whole = blocks.new_empty(len(blocks) // 8, *[2 * n for n in blocks.shape[1:]])
    for number, (z, y, x) in enumerate(itertools.product((0, 1), repeat=3)):
        whole[:, z::2, y::2, x::2] = blocks[number::8]
    return whole


def plain(logits: Tensor, shown: Shown, voxels: list[tuple[int, int, int]]) -> tuple[float, float]:
    """Cross-entropy and 1 - Dice, voxel by voxel. logits: (4, *shape)."""
    shares = torch.softmax(logits.double(), 0)
    entropies, hits, sizes, sums = [], [0.0] * 4, [0] * 4, [0.0] * 4
    for z, y, x in voxels:
        if not shown.visible[0, 0, z, y, x]:
            continue
        true = int(shown.classes[0, 0, z, y, x])
        here = shares[:, z, y, x].tolist()
        entropies.append(-np.log(here[true]))
        hits[true] += here[true]
        sizes[true] += 1
        sums = [a + b for a, b in zip(sums, here, strict=True)]
    dice = [(2 * hits[k] + 1) / (sizes[k] + sums[k] + 1) for k in (2, 3) if sizes[k] > 20]
    return float(np.mean(entropies)), 1 - float(np.mean(dice))


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_single_voxels(seed: int) -> None:
    fine, coarse, shown = example()
    some = Chance(seed).permutation(8)[:3]
    corners = [(n >> 2, n >> 1 & 1, n & 1) for n in some]
    blocks = np.ndindex(8, 4, 4)
    voxels = [(2 * z + a, 2 * y + b, 2 * x + c) for z, y, x in blocks for a, b, c in corners]
    found = dict(fine_terms(fine, shown, Chance(seed)))
    entropy, dice = plain(unpacked(fine), shown, voxels)
    assert float(found["classes"]) == pytest.approx(entropy, rel=1e-5)
    assert float(found["dice"]) == pytest.approx(dice, rel=1e-5)
    start = Chance(seed).integer(0, 3)
    logits = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    places = [(start + 4 * z, start + 4 * y, start + 4 * x) for z, y, x in np.ndindex(4, 2, 2)]
    shares = torch.softmax(logits.double(), 0)
    seen = [p for p in places if shown.visible[0, 0][p]]
    expected = np.mean(
        [
            -np.log(float(shares[:, z, y, x][shown.classes[0, 0, z, y, x].long()]))
            for z, y, x in seen
        ]
    )
    assert float(coarse_entropy(coarse, shown, Chance(seed))) == pytest.approx(expected, rel=1e-5)


def test_a_dice_of_nothing_is_not_asked_for() -> None:
    fine, _, shown = example()
    nobody = Shown(shown.similar, shown.classes.clamp(max=1), shown.visible)
    assert [name for name, _ in fine_terms(fine, nobody, Chance(0))] == ["classes"]


def test_both_heads_learn_and_the_shipped_one_is_the_network_at_use() -> None:
    torch.manual_seed(0)
    taught = TaughtTissues(NETWORK)
    used = TissueNetwork(NETWORK)
    state = taught.state_dict()
    assert set(state) - set(used.state_dict()) == {"coarse.weight", "coarse.bias"}
    used.load_state_dict({name: state[name] for name in used.state_dict()})
    image = torch.rand(1, 1, 16, 24, 8)
    with torch.no_grad():
        assert torch.equal(taught(image), used(image))
    _, _, shown = example()
    one = Shown(torch.rand(1, 96, 8, 4, 4).half(), shown.classes, shown.visible)
    loss = {"classes": 1.0, "dice": 1.0, "coarse_classes": 0.5}
    stage = StageConfig.model_validate({"name": "s", "steps": 1, "loss": loss, "kind": "tissues"})
    total, terms = TissueObjective(taught, stage)([one, one], Chance(0))
    assert total.item() == pytest.approx(
        float(terms["classes"] + terms["dice"] + 0.5 * terms["coarse_classes"]), rel=1e-5
    )
    taught.both_logits(one.similar.float())[1].sum().backward()
    assert taught.stem.weight.grad is not None
    assert taught.stem.weight.grad.abs().max() > 0  # the coarse head teaches what is before it
    total.backward()
    missing = [name for name, p in taught.named_parameters() if p.grad is None]
    assert missing == []
    assert all(bool(head.weight.grad.abs().max() > 0) for head in (taught.coarse, taught.last))


def test_labels_of_both_sides_have_one_class(maps: Path) -> None:
    classes = [TissueClass.model_validate(one) for one in CLASSES]
    assert class_of_label(maps, classes).tolist() == [0, 2, 3, 2, 1]
    with pytest.raises(InputError, match="has no label 17 \\(hippocampus\\)"):
        class_of_label(maps, [*classes, TissueClass(name="hippocampus", label=17)])


def test_maps_along_unknown_axes_are_refused(maps: Path) -> None:
    arrays = dict(np.load(maps))
    del arrays["axes"]
    np.savez(maps, **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="along the axes of LPS are expected"):
        class_of_label(maps, [TissueClass.model_validate(CLASSES[0])])


def test_images_are_kept_for_some_steps(configured: Callable[..., TrainConfig], maps: Path) -> None:
    config = configured({"fresh_every": 4, "batch": 2})
    source = training_pairs(config, config.stages[0], torch.device("cpu"))
    table = torch.tensor([0, 2, 3, 2, 1])
    asked: list[int] = []

    class Source:
        def pair(self, index: int) -> Any:
            asked.append(index)
            return source.pair(index)

        def __len__(self) -> int:
            return len(source)

    kept = KeptImages(Source(), table, NETWORK, config.stages[0], 0)
    for number in range(90):
        shown = kept.batch(number)
        newest = min(number, 3 + number // 4)
        assert newest - 11 <= min(kept.kept) <= max(kept.kept) <= newest
    assert len(shown) == 2
    assert len(asked) == len(set(asked)) > 20  # each pair was made once
    again = KeptImages(source, table, NETWORK, config.stages[0], 0).batch(89)
    assert same_bits([vars(x) for x in shown], [vars(x) for x in again])


@pytest.mark.parametrize("real", [True, False])
def test_random_shapes_are_no_brain(
    real: bool, configured: Callable[..., TrainConfig], maps: Path
) -> None:
    """And what is kept of a head is what the table says of its labels."""
    config = configured()
    source = training_pairs(config, config.stages[0], torch.device("cpu"))
    pair = replace(source.pair(0), real=real)
    assert set(pair.fixed_labels.unique().tolist()) == {0, 1, 2, 3, 4}
    classes = [0, 2, 3, 2, 1]
    kept = KeptImages(source, torch.tensor(classes), NETWORK, config.stages[0], 0)
    kept.source = SimpleNamespace(pair=lambda _: pair)  # type: ignore[assignment]
    for image, labels, shown in zip(
        (pair.fixed, pair.moving),
        (pair.fixed_labels, pair.moving_labels),
        kept._made(0),
        strict=True,
    ):
        expected = [
            classes[label] if real else min(label, 1) for label in labels.flatten().tolist()
        ]
        assert shown.classes.flatten().tolist() == expected
        assert torch.equal(shown.similar, self_similar(image, NETWORK).half())


def test_it_learns_resumes_and_is_exported(
    configured: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    keeping = {"validate_steps": 60, "validation_pairs": 2, "average_decay": 0.9}
    stage = {"steps": 60, "learning_rate": 1e-2, "betas": (0.9, 0.98), "clip_norm": 1.0}
    config = configured(stage, keeping={**keeping, "checkpoint_seconds": 1e9})
    run = tmp_path / "run"
    assert train(config, run) == "finished"
    start, end = (record["dice"] for record in records(run, "validation"))
    assert end > start + 0.2
    assert {"classes", "dice", "coarse_classes"} <= records(run)[0].keys()
    assert {"dice white matter", "dice no brain"} <= records(run, "validation")[0].keys()

    before = load_weights(tmp_path / "beside")
    export(run, tmp_path / "weights", "both")
    both = load_weights(tmp_path / "weights")
    assert same_bits(both.network.state_dict(), before.network.state_dict())
    assert both.config.preprocess == before.config.preprocess
    assert both.tissues is not None
    assert both.tissues.config == NETWORK
    best = load_state(run, "best")["average"]
    exact = TissueNetwork(NETWORK).eval()
    exact.load_state_dict({name: best[name] for name in exact.state_dict()})
    image = torch.rand(1, 1, 24, 24, 24)
    set_execution(both.tissues, TissueNetwork, bfloat16=False)
    with torch.no_grad():
        # Numbers are kept to 2⁻¹¹ of themselves; logits of a few units change by about 0.01.
        assert (both.tissues(image) - exact(image)).abs().max() < 0.01
    assert both.config.provenance["tissues"]["sha256"] == before.sha256
    card = (tmp_path / "weights" / "README.md").read_text()
    assert card.startswith("An untrained network.\n")
    assert f"| dice | {load_state(run, 'best')['scores']['dice']:.4f} |" in card
    assert json.loads((tmp_path / "weights" / "config.json").read_text())["name"] == "both"
    with pytest.raises(InputError, match="trained tissues, no registration"):
        train(configured(initial=str(run)), tmp_path / "other")


def test_weights_trained_further_keep_their_tissues(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    before = load_weights(untrained_weights(tmp_path / "beside"))
    tissues = TissueNetwork(NETWORK)
    config = before.config.model_copy(update={"tissues": NETWORK})
    save_weights(tmp_path / "both", before.network, config, "Both.", tissues=tissues)
    further = make_config(
        [{"loss": {"dice": 1.0}, "steps": 1}],
        model=config.model,
        initial=str(tmp_path / "both"),
        weights={"tissues": NETWORK.model_dump()},  # as `carl train --from` has it
    )
    train(further, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "further")
    kept = load_weights(tmp_path / "further")
    assert kept.tissues is not None
    stored = load_weights(tmp_path / "both").tissues
    assert stored is not None
    assert same_bits(dict(kept.tissues.state_dict()), dict(stored.state_dict()))
    assert not same_bits(dict(kept.network.state_dict()), dict(before.network.state_dict()))


def test_a_run_in_pieces_ends_with_the_same_bits(
    configured: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    keeping = {"validate_steps": 3, "validation_pairs": 1, "average_decay": 0.9}
    config = configured({"steps": 6, "schedule": "cosine", "warmup_steps": 2}, keeping=keeping)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    train(config, whole)
    outcomes = [train(config, pieces, resume=True, max_seconds=0) for _ in range(6)]
    assert outcomes == ["time"] * 6
    for name in ("last", "best"):
        assert same_bits(load_state(whole, name), load_state(pieces, name))


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ({}, {"tissues": None}, "kind = tissues and a table \\[tissues\\] go together"),
        ({"kind": "registration"}, {}, "kind = tissues and a table \\[tissues\\] go together"),
        ({"shape_zyx": (32, 32)}, {"model": {"dimension": 2}}, "rendered volumes, in 3D"),
        ({}, {"data": {"kind": "images", "images": "x", "cache": "y"}}, "rendered volumes, in 3D"),
        ({}, {"data": {"kind": "synthetic"}}, "label maps, and others for validation"),
        ({}, {"initial": None}, "need initial"),
        ({}, {"model": {"coarse_scale": 2}}, "those of initial"),
        ({"shape_zyx": (30, 32, 32)}, {}, "multiples of 8"),
        ({"loss": {"classes": 1.0, "similarity": 1.0}}, {}, "has the losses classes, coarse_"),
        ({"levels": 0}, {}, "are not for tissues"),
        ({"train": "coarse"}, {}, "are not for tissues"),
        ({}, {"tissues": {"classes": [CLASSES[0], CLASSES[0]]}}, "two classes have the name"),
    ],
)
def test_what_does_not_fit_is_refused(
    stage: dict[str, Any],
    change: dict[str, Any],
    said: str,
    configured: Callable[..., TrainConfig],
) -> None:
    with pytest.raises(ValidationError, match=said):
        configured(stage, **change)


def test_classes_are_learned_by_tissues_alone(make_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ValidationError, match=r"loss\.classes needs kind = tissues"):
        make_config([{"loss": {"dice": 1.0, "classes": 1.0}}])


def test_contrasts_are_those_of_a_t1_or_its_inverse_where_asked(maps: Path) -> None:
    """Means of the classes go with T1's, or against them; without the fraction draws stay."""
    one: LabelMap = load_label_maps(maps)["subject0"]
    assert one.t1 is not None

    def likeness(fraction: float) -> list[float]:
        means = [random_contrast(Chance(seed), one, fraction).mean[1:] for seed in range(200)]
        pairs = (torch.stack([mean, one.t1[1:]]) for mean in means)
        return [float(torch.corrcoef(pair)[0, 1]) for pair in pairs]

    asked, usual = likeness(1.0), likeness(0.0)
    assert sum(abs(r) > 0.8 for r in asked) > 190
    assert 0.3 < sum(r < 0 for r in asked) / 200 < 0.5
    assert sum(abs(r) > 0.8 for r in usual) < 150

"""Pairs that a program hands to `train`: those of a config, and images in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carl_cli.errors import UsageError
from carl_cli.model.fields import identity, sample
from carl_cli.model.network import build_network
from carl_cli.model.regularity import diffusion
from carl_cli.model.similarity import lncc
from carl_cli.training.config import TrainConfig
from carl_cli.training.data import Given, training_pairs, validation_pairs
from carl_cli.training.export import export
from carl_cli.training.loop import train
from carl_cli.training.objective import Objective
from carl_cli.training.run_folder import load_state
from carl_cli.training.start import trained
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair
from tests.training.conftest import QUIET_KEEPING, TINY_MODEL
from tests.training.test_loop import records, same_bits, without_config, write_config

LOSS = {"similarity": 1.0, "sigma": 2, "regularity": 1.5, "regulariser": "diffusion"}
GIVEN = {"kind": "given"}
MEASURED = {**QUIET_KEEPING, "validation_pairs": 2, "validate_steps": 2}
FLAT = {**TINY_MODEL, "dimension": 2}


class Blobs:
    """Slices (1, 1, 16, 16): a bump, and the same moved by as many rows as the pair's number."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def pair(self, index: int) -> Pair:
        rows = self.first + index % self.count
        return Pair.of_images(_bump(7), _bump(7 + rows))


def _bump(row: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    return torch.exp(-((y - row) ** 2 + (x - 7) ** 2) / 10)[None, None]


def test_pairs_of_a_config_that_are_given_train_the_same_network(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    drawn = make_config([{"loss": LOSS, "batch": 2}], keeping=MEASURED)
    where = (drawn, drawn.stages[0], torch.device("cpu"))
    pairs = Given(training_pairs(*where), validation_pairs(*where))
    given = drawn.model_copy(update={"data": make_config([{"loss": LOSS}], data=GIVEN).data})
    train(drawn, tmp_path / "drawn")
    train(given, tmp_path / "given", given=pairs)
    states = [without_config(load_state(tmp_path / name, "last")) for name in ("drawn", "given")]
    assert same_bits(*states)
    scores = [records(tmp_path / name, "validation") for name in ("drawn", "given")]
    assert scores[0] == scores[1] != []


def test_slices_in_memory_are_learned_from_and_measured(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    stages = [{"loss": LOSS, "shape_zyx": None, "steps": 2}]
    config = make_config(stages, data=GIVEN, model=FLAT, keeping=MEASURED)
    train(config, tmp_path, given=Given(Blobs(0, 3), Blobs(2, 2)))
    (scores,) = records(tmp_path, "validation")
    network = trained(str(tmp_path)).eval().requires_grad_(False)
    losses = []
    for pair in (Blobs(2, 2).pair(0), Blobs(2, 2).pair(1)):
        phi = network(pair.fixed, pair.moving).on_grid((16, 16))
        losses.append(float(lncc(pair.fixed, sample(pair.moving, phi, False))))
    assert scores["lncc"] == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert "dice" not in scores
    assert scores["score"] == pytest.approx(1 - scores["lncc"])
    export(tmp_path, tmp_path / "weights")
    assert "Pairs of a program's own." in (tmp_path / "weights" / "README.md").read_text()


def test_without_held_out_pairs_nothing_is_measured(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config([{"loss": LOSS, "steps": 2}], data=GIVEN, model=FLAT, keeping=MEASURED)
    train(config, tmp_path, given=Given(Blobs(0, 3)))
    assert records(tmp_path, "validation") == []
    assert len(records(tmp_path)) == 2


def test_of_images_counts_every_voxel(make_config: Callable[..., TrainConfig]) -> None:
    """Eq. 17 without masks, both directions."""
    stages = [{"loss": LOSS, "batch_norm": "frozen"}]
    config = make_config(stages, data=GIVEN, model=FLAT)
    torch.manual_seed(0)
    network = build_network(config.model).eval().requires_grad_(False)
    pair = Blobs(2, 1).pair(0)
    loss, _ = Objective(network, config.stages[0], config.model)([pair], Chance(0))
    expected = 0.0
    maps = network.both_directions(pair.fixed, pair.moving)
    both = ((pair.fixed, pair.moving), (pair.moving, pair.fixed))
    for map_, (image, other) in zip(maps, both, strict=True):
        phi = map_.on_grid((16, 16))
        expected += float(lncc(image, sample(other, phi, False), sigma=2))
        expected += 1.5 / 2 * float(diffusion(phi, identity((16, 16), False)))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_example_of_the_page_trains_on_slices(
    make_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pairs are an image and the next one."""
    text = (Path(__file__).parents[2] / "docs/how-to/training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    write_config(make_config([{"loss": LOSS}], data=GIVEN, model=FLAT), tmp_path / "config.toml")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"images": [_bump(row) for row in range(6, 9)]}
    exec(code, names)
    assert len(records(tmp_path / "runs" / "slices")) == 3
    pair = names["Slices"](names["images"]).pair(3)
    assert torch.equal(pair.fixed, _bump(8))
    assert torch.equal(pair.moving, _bump(7))


@pytest.mark.parametrize("data", [GIVEN, {"kind": "synthetic"}])
def test_pairs_and_a_config_that_do_not_belong_together(
    data: dict[str, Any], make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config([{"loss": LOSS}], data=data)
    pairs = None if data is GIVEN else Given(Blobs(0, 3))
    with pytest.raises(UsageError, match=f"data.kind is {data['kind']}, and pairs were"):
        train(config, tmp_path / "run", given=pairs)
    assert not (tmp_path / "run").exists()


def test_the_command_has_no_pairs_to_give(
    make_config: Callable[..., TrainConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from carl_cli.cli.app import main

    path = tmp_path / "given.toml"
    write_config(make_config([{"loss": LOSS}], data=GIVEN), path)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(path), "-o", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "data.kind is given, and pairs were not given" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

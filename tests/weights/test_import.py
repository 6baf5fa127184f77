"""Authors' checkpoints, drawn by the parity rule and written by torch.save."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carl_cli.errors import UsageError, WeightsError
from carl_cli.model.network import ModelConfig, UNetConfig, build_network
from carl_cli.model.published import _translate
from carl_cli.weights.checkpoints import FAMILIES, authors_rule, import_checkpoint
from carl_cli.weights.files import digest_of, stored_config
from carl_cli.weights.folder import load_weights
from tests.cli.weights_folder import untrained_weights
from tests.model.reference import CONFIGS, drawn_state, drawn_weight, reference_outputs
from tests.weights.conftest import Carl


def drawn_file(name: str, parity_dir: Path, folder: Path) -> Path:
    file = folder / "Step_2_final.trch"
    torch.save(drawn_state(name, parity_dir), file)
    return file


def assert_phi_agrees(folder: Path, name: str, parity_dir: Path) -> None:
    expected = reference_outputs(name, parity_dir)
    fixed, moving = (expected[key].squeeze()[None, None] for key in ("fixed", "moving"))
    with torch.inference_mode():
        phi = load_weights(folder).network(fixed, moving).on_grid(fixed.shape[2:])
    every_second = (0, slice(None), *[slice(None, None, 2)] * 3) if phi.dim() == 5 else 0
    assert (phi[every_second] - expected["phi_AB"].squeeze()).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["unigradicon", "multigradicon"])
def test_the_two_gradicons_are_the_network_of_the_parity_test(family: str) -> None:
    """One function of the authors' code builds both; only the numbers in the files differ."""
    assert FAMILIES[family].models == (CONFIGS["unigradicon3d"],)
    assert authors_rule(family) == authors_rule("unigradicon")


@pytest.mark.parametrize(
    ("family", "paper"),
    [("unigradicon", "arXiv:2403.05780"), ("multigradicon", "arXiv:2408.00221")],
)
def test_gradicon_with_its_preprocessing_and_citation(
    family: str, paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thin network in place of the authors': the same names, a thousandth of the numbers."""
    model = ModelConfig(
        coarse="unet", refine_scales=(2, 1, 1), unet=UNetConfig(down=(2, 4), up=(2, 4))
    )
    monkeypatch.setitem(FAMILIES, family, replace(FAMILIES[family], models=(model,)))
    ours = build_network(model).state_dict()
    names = dict(_translate(build_network(model)))
    state = {theirs: drawn_weight(theirs, list(ours[key].shape)) for theirs, key in names.items()}
    torch.save(state, tmp_path / "Step_2_final.trch")
    folder = tmp_path / family
    import_checkpoint(tmp_path / "Step_2_final.trch", family, folder)
    loaded = load_weights(folder).network.state_dict()
    assert all(torch.equal(loaded[key], state[theirs]) for theirs, key in names.items())
    config = stored_config(folder)
    assert config["preprocess"]["grid_rule"] == "stretch"
    assert config["preprocess"]["shape_zyx"] == [175, 175, 175]
    assert config["preprocess"]["anti_alias"] is False
    assert config["preprocess"]["intensity"] == {
        "ct_window": [-1000.0, 1000.0],
        "lower_percentile": 0.0,
        "upper_percentile": 99.0,
        "percentiles_of": "image",
        "maximum": 1.0,
    }
    fit = {"steps": 50, "learning_rate": 2e-5, "metric": "lncc", "sigma": 5}
    assert config["instance"].items() >= {**fit, "regularisation": 1.5, "scope": "all"}.items()
    assert paper in config["citation"]
    assert config["family"] == config["name"] == family
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path.name


def test_the_command_line_imports_and_verifies(
    carl_here: Carl, parity_dir: Path, tmp_path: Path
) -> None:
    file = drawn_file("carl2d", parity_dir, tmp_path)
    order = ("weights", "import", file, "--family", "carl", "-o", tmp_path / "own")
    done = carl_here(*order)
    assert done.returncode == 2
    assert "--shape" in done.stderr
    done = carl_here(*order, "--shape", "96,80")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "own"))
    assert_phi_agrees(tmp_path / "own", "carl2d", parity_dir)
    assert carl_here(*order, "--shape", "96,80").returncode == 7, "replaced without --overwrite"


def test_verify_hashes_and_runs(carl_here: Carl, tmp_path: Path) -> None:
    folder = untrained_weights(tmp_path / "own")
    done = carl_here("weights", "verify", folder)
    assert (done.returncode, done.stderr) == (0, "")
    model = folder / "model.safetensors"
    assert digest_of(model) in done.stdout
    assert "test pair: within 0e+00" in done.stdout
    model.write_bytes(model.read_bytes()[:-1] + b"\1")
    done = carl_here("weights", "verify", model)
    assert done.returncode == 4
    assert "model.safetensors is damaged" in done.stderr


def test_verify_knows_a_network_that_does_something_else(carl_here: Carl, tmp_path: Path) -> None:
    folder = untrained_weights(tmp_path / "own")
    config = stored_config(folder)
    assert len(config["self_test"]) == 12
    config["self_test"][4] += 0.01
    (folder / "config.json").write_text(json.dumps(config))
    done = carl_here("weights", "verify", folder)
    assert done.returncode == 4
    assert "on the test pair this network is 1.0e-02 of the image away" in done.stderr


class Bomb:
    """What a hostile pickle does as it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.mark), os.O_CREAT)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    torch.save({"net": Bomb(tmp_path / "ran")}, tmp_path / "bomb.trch")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        import_checkpoint(tmp_path / "bomb.trch", "unigradicon", tmp_path / "own")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "damaged|no state dict"), (b"PK\3\4cut", "damaged|no state dict")],
)
def test_a_file_that_is_no_checkpoint(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.trch").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        import_checkpoint(tmp_path / "x.trch", "unigradicon", tmp_path / "own")


def test_another_family_is_named(parity_dir: Path, tmp_path: Path) -> None:
    file = drawn_file("carl2d", parity_dir, tmp_path)
    with pytest.raises(WeightsError, match="the checkpoint lacks netPhi"):
        import_checkpoint(file, "unigradicon", tmp_path / "own")
    with pytest.raises(UsageError, match="no family 'voxelmorph'"):
        import_checkpoint(file, "voxelmorph", tmp_path / "own")
    with pytest.raises(UsageError, match="the network has 2 axes"):
        import_checkpoint(file, "carl", tmp_path / "own", (96, 96, 96))

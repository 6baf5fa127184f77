"""The network of tissues in a weights folder, beside the one that registers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from carl_cli.errors import WeightsError
from carl_cli.model.network import EncoderConfig, ModelConfig, build_network
from carl_cli.model.tissues import TissueConfig, TissueNetwork
from carl_cli.preprocessing.pair import PreprocessRule
from carl_cli.weights.files import MODEL
from carl_cli.weights.folder import TISSUES, WeightsConfig, load_weights, save_weights

MODEL_CONFIG = ModelConfig(refine_scales=(), encoder=EncoderConfig(width=4, blocks=1, padding=4))
TISSUE_CONFIG = TissueConfig(classes=("air", "other", "grey", "white"), widths=(4, 6, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tissues = TissueNetwork(TISSUE_CONFIG)
    with torch.no_grad():
        for parameter in tissues.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    rule = PreprocessRule(grid_rule="physical")
    config = WeightsConfig(name="two", model=MODEL_CONFIG, preprocess=rule, tissues=TISSUE_CONFIG)
    where = tmp_path / "two"
    save_weights(where, build_network(MODEL_CONFIG), config, "A card.", tissues=tissues)
    torch.save(tissues.state_dict(), tmp_path / "tissues.pt")
    return where


def test_both_networks_come_back(folder: Path) -> None:
    weights = load_weights(folder)
    assert weights.tissues is not None
    before = torch.load(folder.parent / "tissues.pt")
    found = weights.tissues.state_dict()
    assert found.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(found[name], value.half().float(), rtol=0, atol=0)
    assert not weights.tissues.training
    shares = weights.tissues(torch.rand(1, 1, 17, 24, 30))
    assert shares.shape == (1, 4, 9, 12, 15)
    torch.testing.assert_close(shares.sum(1), torch.ones(1, 9, 12, 15), rtol=0, atol=1e-5)


def test_a_folder_without_tissues_has_none(folder: Path) -> None:
    plain = load_weights(folder).config.model_copy(update={"tissues": None})
    save_weights(folder.parent / "plain", build_network(MODEL_CONFIG), plain, "A card.")
    assert load_weights(folder.parent / "plain").tissues is None


@pytest.mark.parametrize("what", ["missing", "too many"])
def test_tensors_that_do_not_fit_the_description_are_refused(folder: Path, what: str) -> None:
    tensors, config = load_file(folder / MODEL), folder / "config.json"
    if what == "missing":
        del tensors[f"{TISSUES}stem.weight"]
    else:
        described = load_config(config).model_copy(update={"tissues": None})
        config.write_text(described.model_dump_json())
    save_file(tensors, folder / MODEL)
    unchecked = load_config(config).model_copy(update={"files": {}})
    config.write_text(unchecked.model_dump_json())
    with pytest.raises(WeightsError, match="tissues"):
        load_weights(folder)


def load_config(path: Path) -> WeightsConfig:
    return WeightsConfig.model_validate_json(path.read_text())

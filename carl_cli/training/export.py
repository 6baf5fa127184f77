"""From a run to a weights folder with a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from carl_cli.errors import InputError, WeightsError
from carl_cli.model.tissues import TissueNetwork
from carl_cli.training.config import TrainConfig
from carl_cli.training.run_folder import has_state, load_state
from carl_cli.training.start import averaged, config_of
from carl_cli.training.tables import GivenData, ImageData
from carl_cli.training.tissues import shipped_part
from carl_cli.weights.files import CARD
from carl_cli.weights.folder import WeightsConfig, load_weights, save_weights
from carl_cli.weights.locate import local_folder, locate

TISSUES = "## Tissues"  # heading of their section in a card


def export(run: Path, folder: Path, name: str | None = None, last: bool = False) -> None:
    """Write the averaged network of a run: the best by validation, or the last one.

    Raises InputError if `run` has no checkpoint, OutputError if `folder` can't be written.
    """
    which = "last" if last or not has_state(run, "best") else "best"
    if not has_state(run, which):
        raise InputError(f"{run} holds no checkpoint", "name the folder of a training run")
    state = load_state(run, which)
    training = config_of(state)
    trained = None if training.tissues is not None else averaged(state)
    provenance = {
        "checkpoint": which,
        "steps": state["at"]["total"],
        "validation": state["scores"],
        "training": state["config"],
    }
    if trained is None:
        _export_tissues(training, state, provenance, folder, name)
        return
    network, model = trained
    fields = {
        "name": name or training.name,
        "model": model,
        "preprocess": training.preprocess or {"grid_rule": "physical"},
        "provenance": provenance | training.weights.get("provenance", {}),
    }
    config = WeightsConfig.model_validate(training.weights | fields | _own_rule(training))
    card = model_card(config, training, state, _count(network))
    tissues = None
    if config.tissues is not None and training.initial is not None:  # trained further, beside them
        tissues = load_weights(locate(training.initial)).tissues
    save_weights(folder, network, config, card, tissues=tissues)


def _export_tissues(
    training: TrainConfig,
    state: dict[str, Any],
    provenance: dict[str, Any],
    folder: Path,
    name: str | None,
) -> None:
    """The weights that the run started from, with its tissues in place of any that they have."""
    assert training.tissues is not None
    assert training.initial is not None
    tissues = TissueNetwork(training.tissues.network)
    tissues.load_state_dict(shipped_part(state["average"]))
    with weights_or_run(training.initial, training.name) as source:
        beside, card = load_weights(source), (source / CARD).read_text(encoding="utf-8")
    fields = {
        "name": name or training.name,
        "tissues": tissues.config,
        "provenance": beside.config.provenance
        | {"tissues": provenance | {"beside": training.initial, "sha256": beside.sha256}},
    }
    known = beside.config.model_dump() | training.weights | fields
    config = WeightsConfig.model_validate(known)
    card = with_tissues(card, training, state, _count(tissues))
    save_weights(folder, beside.network, config, card, tissues=tissues)


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _own_rule(training: TrainConfig) -> dict[str, Any]:
    """The rule for those who use the weights, if it isn't the training's."""
    return {k: v for k, v in training.weights.items() if k == "preprocess"}


@contextmanager
def weights_or_run(source: str, name: str) -> Iterator[Path]:
    """The weights folder that a name or path stands for; a training run is exported to one, under
    this name, that is gone afterwards. Raises WeightsError if there is neither."""
    folder = local_folder(source)
    with TemporaryDirectory(prefix="carl-") as scratch:
        if any(has_state(Path(source), which) for which in ("best", "last")):
            folder = Path(scratch)
            export(Path(source), folder, name)
        if folder is None:
            raise WeightsError(f"no weights {source!r} here", "name a weights folder, or a run")
        yield folder


def model_card(
    config: WeightsConfig, training: TrainConfig, state: dict[str, Any], parameters: int
) -> str:
    """README.md of the folder, with the front matter of the Hub."""
    scores = state["scores"]
    return "\n".join(
        [
            *("---", "license: apache-2.0", "library_name: carl", "pipeline_tag: image-to-image"),
            *("tags: [medical-imaging, image-registration]", "---", f"# {config.name}", ""),
            f"Registers {config.model.dimension}D medical images. Use: "
            f"`carl register FIXED MOVING -o T.h5 --weights FOLDER`. {parameters / 1e6:.2f} M "
            "parameters.",
            *_origin_lines(training),
            *("", "## Data", _data_words(training)),
            *("", "## Recipe", *_stage_lines(training)),
            f"- {state['at']['total']} steps done in all; exponential moving average of weights",
            *("", "## Measured on held-out pairs of the training's kind", *_score_lines(scores)),
            *("", "## Intended use", "Research. Not a medical device; check every result."),
            *("", "## Limits", "Anatomies, contrasts and deformations unlike the training data."),
            "",
        ]
    )


def with_tissues(card: str, training: TrainConfig, state: dict[str, Any], parameters: int) -> str:
    """The card of the weights that tissues stand beside, with a section on these at its end."""
    assert training.tissues is not None
    names = ", ".join(one.name for one in training.tissues.classes)
    others = re.sub(rf"\n{TISSUES}\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    section = [
        f"A U-Net of {parameters / 1e6:.2f} M parameters beside these, which alignment uses on "
        f"brains. It tells {names}.",
        _data_words(training),
        *("", *_stage_lines(training)),
        f"- {state['at']['total']} steps done in all; exponential moving average of weights",
        *("", "Dice on held-out people:", "", *_score_lines(state["scores"]), ""),
    ]
    return "\n".join([others.rstrip("\n"), "", TISSUES, "", *section])


def _origin_lines(training: TrainConfig) -> list[str]:
    if training.initial is None:
        return []
    known = training.weights.get("provenance", {}).get("made_from", {})
    digest = f" (SHA-256 of its model.safetensors {known['sha256']})" if "sha256" in known else ""
    part = "The weights" if training.initial_part == "all" else "Ξ's weights"
    return ["", "## Made from", f"{part} of {training.initial}{digest} were trained further."]


def _data_words(training: TrainConfig) -> str:
    data = training.data
    if isinstance(data, GivenData):
        return "Pairs of a program's own."
    if isinstance(data, ImageData):
        return f"Images of {', '.join(one.images.name for one in data.sets)}."
    words = "Pairs rendered from random shapes"
    if data.maps is not None:
        words += f" and from the label maps of {len(data.train)} subjects ({data.maps.name})"
    held = len(data.validation)
    return words + (f"; {held} other subjects for validation." if held else ".")


def _stage_lines(training: TrainConfig) -> list[str]:
    lines = []
    for stage in training.stages:
        terms = stage.loss.model_dump(exclude_defaults=True)
        shape = "×".join(map(str, stage.shape_zyx or ("the images' size",)))
        settings = ", ".join(f"{k} {v}" for k, v in terms.items())
        lines.append(
            f"- {stage.name}: {stage.kind}, {stage.steps} steps at {shape}, batch "
            f"{stage.batch * stage.accumulate}, Adam {stage.learning_rate:g}; {settings}"
        )
    return lines


def _score_lines(scores: dict[str, float]) -> list[str]:
    if not scores:
        return ["Not measured: exported without validation."]
    rows = [f"| {name} | {value:.4f} |" for name, value in scores.items() if name != "score"]
    return ["| figure | mean |", "|---|---|", *rows]

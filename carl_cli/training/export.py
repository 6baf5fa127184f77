"""From a run to a weights folder with a model card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from carl_cli.errors import InputError, WeightsError
from carl_cli.preprocessing.pair import PreprocessRule
from carl_cli.training.config import SyntheticData, TrainConfig
from carl_cli.training.run_folder import has_state, load_state
from carl_cli.training.start import averaged
from carl_cli.weights.folder import WeightsConfig, save_weights
from carl_cli.weights.locate import local_folder


def export(run: Path, folder: Path, name: str | None = None, last: bool = False) -> None:
    """Write the averaged network of a run: the best by validation, or the last one.

    Raises InputError if `run` has no checkpoint, OutputError if `folder` can't be written.
    """
    which = "last" if last or not has_state(run, "best") else "best"
    if not has_state(run, which):
        raise InputError(f"{run} holds no checkpoint", "name the folder of a training run")
    state = load_state(run, which)
    training = TrainConfig.model_validate(state["config"])
    network, model = averaged(state)
    config = WeightsConfig(
        name=name or training.name,
        model=model,
        preprocess=PreprocessRule.model_validate(training.preprocess or {"grid_rule": "physical"}),
        provenance={
            "checkpoint": which,
            "steps": state["at"]["total"],
            "validation": state["scores"],
            "training": state["config"],
        },
    )
    parameters = sum(p.numel() for p in network.parameters())
    save_weights(folder, network, config, model_card(config, training, state, parameters))


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
            "Registers 3D medical images. Use: "
            f"`carl register FIXED MOVING -o T.h5 --weights FOLDER`. {parameters / 1e6:.2f} M "
            "parameters.",
            *("", "## Data", _data_words(training)),
            *("", "## Recipe", *_stage_lines(training)),
            f"- {state['at']['total']} steps done in all; exponential moving average of weights",
            *("", "## Measured on held-out pairs of the training's kind", *_score_lines(scores)),
            *("", "## Intended use", "Research. Not a medical device; check every result."),
            *("", "## Limits", "Anatomies, contrasts and deformations unlike the training data."),
            "",
        ]
    )


def _data_words(training: TrainConfig) -> str:
    data = training.data
    if not isinstance(data, SyntheticData):
        return f"Images of {data.images.name}."
    words = "Pairs rendered from random shapes"
    if data.maps is not None:
        words += f" and from the label maps of {len(data.train)} subjects ({data.maps.name})"
    held = len(data.validation)
    return words + (f"; {held} other subjects for validation." if held else ".")


def _stage_lines(training: TrainConfig) -> list[str]:
    lines = []
    for stage in training.stages:
        terms = stage.loss.model_dump(exclude_defaults=True)
        shape = "×".join(map(str, stage.shape_zyx))
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

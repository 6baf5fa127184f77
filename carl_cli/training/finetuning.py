"""Weights trained further on images of one's own, from one line (`carl train --from`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from carl_cli.errors import UsageError, WeightsError, told
from carl_cli.training.cache import listed
from carl_cli.training.config import TrainConfig
from carl_cli.training.tables import ImageSet
from carl_cli.weights.files import MODEL, digest_of
from carl_cli.weights.folder import WeightsConfig, read_config
from carl_cli.weights.locate import locate

VALIDATIONS = 20  # in a whole run
CHANGED = {"name", "model", "preprocess", "files", "self_test", "provenance", "format_version"}


@dataclass(frozen=True)
class FineTuning:
    """What to train further, and on what."""

    weights: str  # name, folder or repository
    images: Path  # folder or table, see ImageSet
    cache: Path
    segmentations: Path | None = None  # folder of files named as their images
    steps: int = 300
    learn: Literal["all", "coarse", "refinements"] = "all"
    learning_rate: float = 1e-4
    held_out: int | None = None  # images; None: a tenth, at least one of three or more
    patience: int = 5  # validations without gain, then it ends
    max_voxels: int | None = None  # of the grid that it is trained on; None: the weights' rule
    modality: Literal["auto", "ct", "mr"] = "auto"
    seed: int = 0

    def config(self, name: str) -> TrainConfig:
        """The run. Raises WeightsError, InputError (no images), and UsageError for networks that
        can't be trained and for a split that leaves nothing."""
        data = self._data()
        folder = locate(self.weights)
        source = read_config(folder)
        kept = source.model_dump(mode="json", exclude=CHANGED)
        origin = {"name": source.name, "sha256": digest_of(folder / MODEL)}
        rule = source.preprocess.model_dump(mode="json")
        try:
            return TrainConfig.model_validate(
                {
                    "name": name,
                    "seed": self.seed,
                    "model": source.model,
                    "data": data,
                    "stages": [self._stage(source)],
                    "keeping": self._keeping(),
                    "initial": self.weights,
                    "preprocess": self._rule(rule),
                    "weights": {
                        **kept,
                        "preprocess": rule,
                        "provenance": {"made_from": origin},
                    },
                }
            )
        except ValidationError as error:
            reason = told(error.errors()[0])
            raise UsageError(f"{self.weights} can't be trained further: {reason}") from error

    def _data(self) -> dict[str, Any]:
        named = {"images": self.images, "segmentations": self.segmentations}
        images, pairs = listed(ImageSet.model_validate(named))
        return {
            "kind": "images",
            **named,
            "cache": self.cache,
            "modality": self.modality,
            "held_out": self._held_out(len(pairs) or len(images), 1 if pairs else 2),
            "affine_noise": 0.03,
        }

    def _held_out(self, count: int, least: int) -> int:
        """Of so many images, or pairs; `least` must be left to train on."""
        held = self.held_out
        if held is None:
            held = max(count // 10, int(count > least))
        if count - held < least:
            raise UsageError(
                f"{self.images}: {count} images or pairs, {held} held out: too few are left",
                "lower --held-out",
            )
        return held

    def _rule(self, rule: dict[str, Any]) -> dict[str, Any]:
        if self.max_voxels is None:
            return rule
        if rule["grid_rule"] != "physical":
            raise WeightsError(
                f"{self.weights} are for a grid of {rule['shape_zyx']}", "leave out --max-voxels"
            )
        return {**rule, "max_voxels": self.max_voxels}

    def _stage(self, source: WeightsConfig) -> dict[str, Any]:
        """The paper's loss with the weights' metric, and soft Dice where there are labels."""
        metric, sigma = source.instance.metric, source.instance.sigma
        if metric == "auto":  # what it chooses for images of one contrast, as those of a set are
            metric = "lncc"
        return {
            "name": "fine-tuning",
            "steps": self.steps,
            "train": self.learn,
            "batch_norm": "frozen",
            "learning_rate": self.learning_rate,
            "schedule": "cosine",
            "warmup_steps": min(10, self.steps // 10),
            "clip_norm": 1.0,
            "patience": self.patience,
            "loss": {
                "similarity": 1.0,
                "metric": metric,
                "sigma": sigma,
                "dice": 1.0,
                "regularity": source.instance.regularisation,
                "gradicon_stride": 2,
            },
        }

    def _keeping(self) -> dict[str, Any]:
        return {
            "validate_steps": max(1, self.steps // VALIDATIONS),
            "validation_pairs": 12,
            "average_decay": 0.98,
        }

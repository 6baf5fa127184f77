"""How the command line shows an option that a library room describes: its flags and its panel."""

from __future__ import annotations

from typing import Any

import typer
from annotated_types import Ge, Gt, Le
from typer.models import OptionInfo

from carl_cli.cli.options import completion
from carl_cli.preprocessing.options import Option, options_of
from carl_cli.weights.locate import advised
from carl_cli.weights.registry import DEFAULT

PAIR = "The two images"
OUTPUTS = "Outputs (at least one)"
NETWORK = "Network"
INSTANCE = "Instance optimisation"
IMAGES = "Reading of the images"
START = "Starting point and kind of result"
CHANNELS = "Several contrasts"
GUIDES = "What is known and guides"
SCORES = "Scores, for the record and the report"

PANELS = {
    OUTPUTS: "aligned transforms table forward inverse warped inverse_warped jacobian "
    "match_spread figure report json field_spacing precision header_only intensity_conservation "
    "repair_folds",
    NETWORK: "weights offline device seed deterministic",
    INSTANCE: "io_preset io_steps io_lr io_metric io_sigma io_lambda io_smoothing io_scope",
    IMAGES: "modality fixed_modality moving_modality window percentiles fixed_mask moving_mask "
    "series_uid time_index",
    START: "reference transform initial_transform init affine_only regularity restrict",
    CHANNELS: "fixed_channel moving_channel channel_weights",
    GUIDES: "guide_labels guide_points",
    SCORES: "fixed_seg moving_seg fixed_points moving_points label_names",
}
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names.split()}
_FLAGS = {
    "aligned": ("--output", "-o"),
    "forward": ("--output", "-o"),
    "inverse": ("--inverse", "-O"),
    "warped": ("--warped", "-w"),
    "inverse_warped": ("--inverse-warped", "-W"),
    "fixed_mask": ("--fixed-mask", "-x"),
    "initial_transform": ("--initial-transform", "-i"),
}


def option(panel: str, *names: str, help: str, **more: Any) -> OptionInfo:
    """An option that only the command line has."""
    made: OptionInfo = typer.Option(*names, help=help, rich_help_panel=panel, **more)
    return made


def described(known: Option, *flags: str, panel: str = "") -> OptionInfo:
    """An option as its group describes it; flags, panel: other ones than usual."""
    names = flags or _FLAGS.get(known.name, (f"--{known.flag}",))
    least = [bound.ge for bound in known.checks if isinstance(bound, Ge)]
    most = [bound.le for bound in known.checks if isinstance(bound, Le)]
    bounds = {"min": least[0] if least else None, "max": most[0] if most else None}
    offered = {"autocompletion": completion.weights} if known.name == "weights" else {}
    return option(panel or _PANEL_OF[known.name], *names, help=_help(known), **bounds, **offered)


def _help(known: Option) -> str:
    """Typer shows the other bounds by itself, and defaults that are not those of the weights."""
    above = [f"; above {bound.gt}" for bound in known.checks if isinstance(bound, Gt)]
    told = known.help.removesuffix(".") + "".join(above) + "."
    if _PANEL_OF[known.name] != INSTANCE:
        return told
    return f"{told} Default of {DEFAULT}: {advised(DEFAULT).get(known.field, known.default)}."


def described_as(group: Any, name: str, *flags: str, panel: str = "") -> OptionInfo:
    """One option of a group, for a command that has no other option of it."""
    return described({o.name: o for o in options_of(group)}[name], *flags, panel=panel)

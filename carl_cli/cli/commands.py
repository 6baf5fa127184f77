"""The commands of `carl`: plain data, so that `carl --help` loads none of them."""

from __future__ import annotations

from typing import NamedTuple


class CommandEntry(NamedTuple):
    """One line of `carl --help`, and where its code is: module and attribute.

    The attribute is a function with Typer annotations, or a Typer app with sub-commands. A name
    of two words is a command beside the one of its first word.
    """

    name: str
    module: str
    attribute: str
    summary: str
    panel: str


REGISTER = "Register and apply"
TRANSFORMS = "Transforms"
STUDIES = "Studies"
NETWORKS = "Networks"
HELP = "Help"

CONTEXT = {"help_option_names": ["-h", "--help"]}

_CLI = "carl_cli.cli."
_TRANSFORMS = _CLI + "transforms"

ENTRIES = (
    CommandEntry(
        "register",
        _CLI + "register",
        "register",
        "Register a moving image to a fixed one.",
        REGISTER,
    ),
    CommandEntry("warp", _CLI + "warp", "warp", "Resample images or labels onto a grid.", REGISTER),
    CommandEntry(
        "series", _CLI + "series", "series", "Correct the motion in a time series.", REGISTER
    ),
    CommandEntry("points", _CLI + "points", "points", "Map points and landmarks.", REGISTER),
    CommandEntry(
        "jacobian", _TRANSFORMS, "jacobian", "Write the Jacobian determinant.", TRANSFORMS
    ),
    CommandEntry("compose", _TRANSFORMS, "compose", "Chain transforms into one.", TRANSFORMS),
    CommandEntry("average", _TRANSFORMS, "average", "Average transforms.", TRANSFORMS),
    CommandEntry("invert", _TRANSFORMS, "invert", "Invert a transform.", TRANSFORMS),
    CommandEntry(
        "convert", _TRANSFORMS, "convert", "Write a transform in another format.", TRANSFORMS
    ),
    CommandEntry("info", _CLI + "info", "info", "Describe an image or a transform.", TRANSFORMS),
    CommandEntry("batch", _CLI + "batch", "batch", "Register the pairs of a table.", STUDIES),
    CommandEntry(
        "batch status", _CLI + "batch_jobs", "batch_status", "How far a batch is.", STUDIES
    ),
    CommandEntry(
        "batch cancel", _CLI + "batch_jobs", "batch_cancel", "Cancel a batch's jobs.", STUDIES
    ),
    CommandEntry("template", _CLI + "template", "template", "Build a group template.", STUDIES),
    CommandEntry("evaluate", _CLI + "evaluate", "app", "Score and compare registrations.", STUDIES),
    CommandEntry("report", _CLI + "report", "report", "Make an HTML report of a run.", STUDIES),
    CommandEntry(
        "view", _CLI + "view", "view", "Open a report in the browser, or serve it.", STUDIES
    ),
    CommandEntry("train", _CLI + "train", "app", "Train a network from a config file.", NETWORKS),
    CommandEntry(
        "weights",
        _CLI + "weights",
        "app",
        "List, download, check, import and publish weights.",
        NETWORKS,
    ),
    CommandEntry("demo", _CLI + "demo", "demo", "Register a synthetic pair and score it.", HELP),
    CommandEntry("doctor", _CLI + "about", "doctor", "Check this installation and machine.", HELP),
    CommandEntry("cite", _CLI + "about", "cite", "Print what to cite, as BibTeX.", HELP),
)

COMMANDS = {entry.name: entry for entry in ENTRIES}

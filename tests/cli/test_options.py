"""An option is described once: everywhere it has the same name, bounds, choices and help."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from carl_cli.batch.table import COLUMNS, read_table
from carl_cli.cli.app import load
from carl_cli.cli.commands import COMMANDS
from carl_cli.cli.options.described import PANELS
from carl_cli.cli.options.method import MethodArguments
from carl_cli.cli.options.register import InstanceArguments
from carl_cli.cli.options.shared import warn_confidence
from carl_cli.errors import UsageError
from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.model.similarity import LOSSES, by_name
from carl_cli.preprocessing.options import ImageOptions, noted, options_of
from carl_cli.preprocessing.pair import initialise
from carl_cli.registration.instance import InstanceOptions
from carl_cli.registration.options import ChannelOptions, GuideOptions, SeriesOptions, StartOptions
from carl_cli.registration.register import RegistrationOptions
from carl_cli.weights.options import InstanceChoices, Metric, NetworkOptions
from carl_cli.workflows.request import (
    CaseInputs,
    CaseOutputs,
    RunSettings,
    SeriesOutputs,
    WritingOptions,
)
from tests.cli.conftest import Carl

GROUPS: tuple[Any, ...] = (
    CaseOutputs,
    WritingOptions,
    NetworkOptions,
    InstanceChoices,
    ImageOptions,
    CaseInputs,
    StartOptions,
    GuideOptions,
    ChannelOptions,
)
OF_A_ROW: tuple[Any, ...] = (
    CaseInputs,
    ImageOptions,
    StartOptions,
    GuideOptions,
    ChannelOptions,
    InstanceChoices,
)


class Bad(NamedTuple):
    """name: of the option. text: in a cell, and split at spaces on the command line.

    expected: what every refusal has to name: the choices, or the bound.
    """

    name: str
    text: str
    group: Any
    value: Any
    expected: tuple[str, ...]


BAD = (
    Bad("init", "ridgid", RegistrationOptions, "ridgid", ("none", "centers", "rigid", "affine")),
    Bad("fixed_modality", "pet", RegistrationOptions, "pet", ("auto", "ct", "mr")),
    Bad("window", "240 -160", RegistrationOptions, (240, -160), ("LOW", "HIGH", "240", "-160")),
    Bad("percentiles", "1 101", RegistrationOptions, (1, 101), ("0", "100", "101")),
    Bad("io_steps", "-3", InstanceOptions, -3, ("0",)),
    Bad("io_steps", "many", InstanceOptions, "many", ("a whole number",)),
    Bad("io_lr", "-1", InstanceOptions, -1, ("0",)),
    Bad("io_lr", "0", InstanceOptions, 0, ("more than 0",)),
    Bad("io_lr", "nan", InstanceOptions, float("nan"), ("finite",)),
    Bad("io_lambda", "-0.5", InstanceOptions, -0.5, ("0",)),
    Bad("io_smoothing", "0.05", InstanceOptions, 0.05, ("0.1",)),
    Bad("io_metric", "lnc", InstanceOptions, "lnc", ("lncc", "lncc2", "mind")),
    Bad("io_scope", "feild", InstanceOptions, "feild", ("all", "refine", "field")),
    Bad("time_index", "-1", CaseInputs, -1, ("0",)),
    Bad("field_spacing", "fine", RunSettings, "fine", ("native", "network", "millimetres")),
    Bad("regularity", "1.5", RegistrationOptions, 1.5, ("1",)),
    Bad("restrict", "0x2x0", RegistrationOptions, "0x2x0", ("0 to 1", "0x2x0")),
    Bad("precision", "half", RunSettings, "half", ("float", "double")),
)


@pytest.mark.parametrize("bad", BAD, ids=[f"{bad.name} {bad.text}" for bad in BAD])
def test_a_bad_value_is_refused_everywhere(bad: Bad, carl: Carl, tmp_path: Path) -> None:
    """By the command line, by a table and by the library, with the same things named."""
    flag = "--" + bad.name.replace("_", "-")
    output = tmp_path / "t.h5"
    io = ["--io"] if bad.name.startswith("io_") else []
    outcome = carl("register", "a.nii", "b.nii", "-o", output, *io, flag, *bad.text.split())
    said = {"command line": " ".join(outcome.err.replace("│", " ").split())}
    assert outcome.code == 2
    assert flag.removeprefix("--") in said["command line"]
    given = {"fixed": "a.nii", "moving": "b.nii"} if bad.group is CaseInputs else {}
    field = {o.name: o.field for o in options_of(bad.group)}[bad.name]
    with pytest.raises(UsageError) as refusal:
        bad.group(**given, **{field: bad.value})
    said["library"] = refusal.value.message
    assert field in said["library"]
    if bad.name in COLUMNS:
        said["table"] = _row_error(tmp_path, bad)
        assert said["table"].startswith(bad.name)
        assert said["table"].split(": ")[-1].split(", found")[0] in said["library"]
    for where, text in said.items():
        assert all(word in text for word in bad.expected), (where, text)
    assert not output.exists()


def _row_error(folder: Path, bad: Bad) -> str:
    for name in ("a.nii", "b.nii"):
        (folder / name).touch()
    table = folder / "pairs.csv"
    table.write_text(f"fixed,moving,{bad.name}\na.nii,b.nii,{bad.text}\n")
    (entry,) = read_table(table)
    assert entry.row is None
    return entry.error


def test_a_misspelt_name_is_refused() -> None:
    with pytest.raises(UsageError, match="stepps is unknown"):
        InstanceOptions(stepps=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"'lnc'.*") as refusal:
        by_name("lnc")
    assert refusal.value.hint == f"choose one of {', '.join(LOSSES)}"
    grid = Grid((4, 4, 4), (1.0,) * 3, (0.0,) * 3, (1.0, 0, 0, 0, 1, 0, 0, 0, 1))
    image = Image(np.zeros((4, 4, 4), np.float32), grid)
    with pytest.raises(UsageError, match="'centrs'"):
        initialise(image, image, "centrs")  # type: ignore[arg-type]


def test_every_loss_that_may_be_chosen_is_there() -> None:
    assert set(Metric.__args__) - {"auto"} <= set(LOSSES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_is_on_the_command_line(group: Any) -> None:
    """With its help, its default and its least value."""
    shown = {p.name: p for p in load(COMMANDS["register"]).params}
    for option in options_of(group):
        parameter = shown[option.name]
        assert parameter.help.startswith(option.help.removesuffix("."))
        assert parameter.default == (None if group is InstanceChoices else option.default)
        least = [check.ge for check in option.checks if hasattr(check, "ge")]
        assert parameter.min == (least[0] if least else None)


def test_every_option_has_its_panel() -> None:
    groups = (*GROUPS, SeriesOptions, SeriesOutputs)
    named = {option.name for group in groups for option in options_of(group)}
    assert {name for names in PANELS.values() for name in names.split()} == named


@pytest.mark.parametrize("group", OF_A_ROW)
def test_every_option_of_a_pair_is_a_column(group: Any) -> None:
    assert {option.name for option in options_of(group)} <= set(COLUMNS)
    help_text = load(COMMANDS["batch"]).help
    assert all(option.name in help_text for option in options_of(group))


def test_every_option_is_in_the_record() -> None:
    """Files are told there by their roles, outputs too: the rest by their names."""
    asked = {"fixed_modality": "ct", "moving_modality": "mr", "window": (-1, 1), "io": True}
    asked |= {"percentiles": (1, 99), "series_uid": "1.2.3", "time_index": 0}
    asked |= {"restrict": "0,1,0"}
    asked |= {"fixed_channel": ["a.nii"], "moving_channel": ["b.nii"], "channel_weights": "2,1"}
    asked |= {"guide_labels": 1.0, "guide_points": 0.1}
    asked |= {"initial_transform": ["[t.mat,1]"]}  # with its mark, which no role tells
    method = MethodArguments().but(asked)
    told: set[str] = set()
    for scope in ("all", "field"):
        instance = InstanceOptions(scope=scope)  # type: ignore[arg-type]
        options = RegistrationOptions(instance=instance)
        told |= set(method.settings(options, "cpu", 1).noted)
    groups = [group for group in GROUPS if group is not CaseOutputs]
    named = {option.name for group in groups for option in options_of(group)}
    files = {option.name for option in options_of(CaseInputs) if "Path" in str(option.type)}
    assert told == (named - files) | {"io"}


def test_what_a_scope_does_not_use_is_not_recorded() -> None:
    for scope, absent in (("field", {"io_lr", "io_lambda"}), ("refine", {"io_smoothing"})):
        instance = InstanceOptions(scope=scope)  # type: ignore[arg-type]
        method = MethodArguments(instance=InstanceArguments(io=True))
        values = method.settings(RegistrationOptions(instance=instance), "cpu", 1).noted
        assert set(noted(instance)) - set(values) == absent


def test_the_old_name_of_match_spread_warns_once(carl: Carl, tmp_path: Path) -> None:
    """And means the same: here its folder is missing."""
    warn_confidence.cache_clear()
    words = ("register", "a.nii", "b.nii", "--confidence", tmp_path / "none" / "c.nii.gz")
    first, second = carl(*words), carl(*words)
    assert (first.code, second.code) == (7, 7)
    assert first.err.count("now called --match-spread") == 1
    assert "now called" not in second.err
    assert "--confidence" not in carl("register", "--help").out

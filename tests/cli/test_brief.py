"""Help: a few options first, the rest on demand, nothing lost at 80 columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import cleandoc

import pytest
from typer.main import get_command

from carl_cli.cli.app import app, load, main
from carl_cli.cli.brief import FEW, plain_kind, reflowed
from carl_cli.cli.commands import COMMANDS
from carl_cli.preprocessing.options import options_of
from carl_cli.weights.folder import read_config
from carl_cli.weights.locate import embedded_folder
from carl_cli.weights.options import InstanceChoices

Help = Callable[..., str]


@pytest.fixture
def help_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Help:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")

    def read(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert not stop.value.code
        return capsys.readouterr().out

    return read


@pytest.mark.parametrize(
    "words", [("register",), ("warp",), ("batch",), ("template",), ("evaluate", "score")]
)
def test_a_beginner_sees_about_ten_options_and_an_example(
    words: tuple[str, ...], help_of: Help
) -> None:
    brief, whole = help_of(*words, "--help"), help_of(*words, "--help-all")
    shown = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", brief.partition("╭")[2]))
    assert 7 <= len(shown - {"--help", "--help-all", "--no-io", "--flo", "--ref"}) <= 14
    assert f"more options: carl {' '.join(words)} --help-all" in brief
    assert "more options" not in whole
    assert "--overwrite" in whole
    assert "--log-file" in whole
    assert "--log-file" not in brief
    assert "    carl " in brief.partition("Examples:")[2].partition("╭")[0]


PAGES = [
    (*entry.name.split(), *sub)
    for entry in COMMANDS.values()
    for sub in [(), *((name,) for name in getattr(load(entry), "commands", {}))]
]


def _source(words: tuple[str, ...]) -> str:
    """The text that a page is made of."""
    entry = COMMANDS.get(" ".join(words)) or COMMANDS.get(words[0] if words else "")
    command = get_command(app) if entry is None else load(entry)
    for name in words[1:] if entry and entry.name == words[0] else ():
        command = command.commands[name]
    return cleandoc(command.help or "")


@pytest.mark.parametrize("words", [(), *PAGES], ids=" ".join)
def test_a_page_of_help_speaks_to_users(words: tuple[str, ...], help_of: Help) -> None:
    """Flags take nothing, kinds are plain words, and no example is broken by the terminal."""
    page = help_of(*words, "--help")
    assert re.findall(r"<bool>|list\[|\w+ range|Path", page) == []
    assert re.search(r"--help +-h +Show this message", page)
    assert max(map(len, page.splitlines())) <= 80
    examples = [line for line in _source(words).splitlines() if line.startswith("    ")]
    assert [line for line in examples if line.strip() not in page] == []


def test_choices_are_broken_between_them() -> None:
    assert plain_kind("<list[Path]>") == "<path>"
    assert plain_kind("<int range>") == "<int>"
    assert plain_kind("<str>") == "<text>"
    assert plain_kind("<auto|ct|mr>") == "<auto|ct|mr>"
    broken = plain_kind("<none|centers|moments|rigid|affine>")
    assert broken == "<none|centers|\nmoments|rigid|\naffine>"
    assert plain_kind(broken) == broken


def test_the_help_of_evaluate_shows_how_to_score(help_of: Help) -> None:
    page = help_of("evaluate", "--help")
    for option in ("--fixed-seg", "--transform", "carl evaluate compare theirs.csv ours.csv"):
        assert option in page


def test_what_is_hidden_in_the_help_still_works(help_of: Help) -> None:
    command = load(COMMANDS["register"])
    help_of("register", "--help")
    context = command.make_context("register", ["a", "b", "--log-file", "c"])
    assert str(context.params["log_file"]) == "c"


@pytest.mark.parametrize("name", sorted(set(FEW) - {"score"}))
def test_the_short_list_names_options_that_there_are(name: str) -> None:
    assert set(FEW[name].split()) <= {p.name for p in load(COMMANDS[name]).params}


def test_lines_are_broken_by_the_terminal_alone(help_of: Help) -> None:
    """Not after `of the fixed`, where the source has its line's end."""
    text = help_of("register", "--help")
    assert " Fixed comes first, as in antsRegistration and greedy. The transform maps" in text
    assert "\n points of the fixed image to points of the moving one, in LPS" in text


def test_brackets_are_shown(help_of: Help) -> None:
    assert "-t '[affine.mat,1]' -o W.nii.gz" in help_of("warp", "--help")
    assert reflowed("one\ntwo [@revision]\n\n    a  b") == "one two \\[@revision]\n\n    a  b"


@pytest.mark.parametrize("name", ["register", "batch"])
def test_options_of_instance_optimisation_tell_what_the_weights_advise(
    name: str, help_of: Help
) -> None:
    """What the help says is what a run is done with when the option is left out."""
    text = " ".join(re.sub("[│\n]", " ", help_of(name, "--help-all")).split())
    used = read_config(embedded_folder("carl-base")).instance
    told = re.findall(r"--io-[a-z]+ .*?Default of carl-base: (\S+?)\. ", text)
    assert told == [str(getattr(used, o.field)) for o in options_of(InstanceChoices)]


@pytest.mark.parametrize("name", ["register", "warp", "points", "batch", "jacobian", "report"])
def test_no_line_is_longer_than_the_terminal(name: str, help_of: Help) -> None:
    assert max(map(len, help_of(name, "--help").splitlines())) <= 80
    examples = [line for line in help_of(name, "--help").splitlines() if line.startswith("     ")]
    starts = "carl ", "-"  # examples, and kinds of registration by their option
    assert all(line.strip().startswith(starts) for line in examples if line.strip())

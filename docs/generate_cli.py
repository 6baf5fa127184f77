"""docs/reference/cli.md from the commands themselves: `make docs`. A test compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

from carl_cli.cli.app import load
from carl_cli.cli.commands import COMMANDS

TARGET = Path(__file__).parent / "reference" / "cli.md"
OPENING = """# Commands

Made from the help texts by `make docs`. `carl COMMAND --help` shows the same in the terminal.
"""
OWN_HELP = "help"


def document() -> str:
    """The whole page."""
    sections = [OPENING]
    for entry in COMMANDS.values():
        sections += _command(f"carl {entry.name}", load(entry))
    return "\n".join(sections)


def _command(name: str, command: Any) -> Iterator[str]:
    """Heading, text and parameters; then the same for each sub-command."""
    shown = [p for p in command.params if p.name != OWN_HELP and not getattr(p, "hidden", False)]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    yield f"## {name}\n\n{cleandoc(command.help or '')}\n"
    usage = [name, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])]
    yield f"```\n{' '.join(usage)}\n```\n"
    if shown:
        yield "\n".join(f"- {_parameter(parameter)}" for parameter in [*arguments, *options]) + "\n"
    for subname, subcommand in getattr(command, "commands", {}).items():
        yield from _command(f"{name} {subname}", subcommand)


def _usage(argument: Any) -> str:
    word = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _parameter(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if is_argument else _spellings(parameter)
    words = [
        ", ".join(f"`{name}`" for name in names),
        "—",
        " ".join((parameter.help or "").split()),
    ]
    if parameter.required and not is_argument:
        words.append("Required.")
    if _worth_telling(parameter.default):
        words.append(f"Default: `{_plain(parameter.default)}`.")
    return " ".join(words)


def _spellings(option: Any) -> list[str]:
    """Short names first; `--no-…` last."""
    return sorted(option.opts, key=lambda name: name.startswith("--")) + option.secondary_opts


def _worth_telling(default: Any) -> bool:
    """Not for switches that are off and options that are not given; zero is a value."""
    nothing = default is None or default is False or default in ((), [], "")
    return not nothing and not callable(default)


def _plain(default: Any) -> str:
    value = getattr(default, "value", default)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")

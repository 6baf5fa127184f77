"""The `carl` command: a lazy group of commands inside one error boundary."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from math import isfinite
from typing import Annotated, Any, NoReturn, get_type_hints

import typer
from typer.core import TyperCommand
from typer.main import get_command

from carl_cli import __version__
from carl_cli.cli.boundary import exit_code_of
from carl_cli.cli.brief import BriefCommand, ReadableGroup
from carl_cli.cli.commands import COMMANDS, CONTEXT, CommandEntry
from carl_cli.cli.options.once import refuse_repeats
from carl_cli.errors import UsageError


def load(entry: CommandEntry) -> Any:
    """The command itself; this is where its module is imported."""
    target = getattr(import_module(entry.module), entry.attribute)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False)
        target.command(entry.name, cls=BriefCommand, context_settings=CONTEXT)(function)
    _leave_checking_to(target)
    command = get_command(target)
    command.name = entry.name
    refuse_repeats(command)
    return command


def _leave_checking_to(commands: typer.Typer) -> None:
    """Typer takes a file that may not be read for a wrong option (code 2); where a command
    reads it, that is an error of input, with a hint and a code of its own. A number with a lower
    bound is finite. Help is brief."""
    for command in commands.registered_commands:
        command.cls = BriefCommand
        hints = get_type_hints(command.callback, include_extras=True)
        for parameter in hints.values():
            for declared in getattr(parameter, "__metadata__", ()):
                declared.readable = False
                if getattr(declared, "min", None) is not None:
                    declared.callback = declared.callback or _finite
        command.callback.__annotations__ = hints  # else Typer would work them out anew


def _finite(param: typer.CallbackParam, value: Any) -> Any:
    if value is not None and not isfinite(value):
        raise UsageError(f"{param.opts[0]} {value}: a finite number was expected")
    return value


class LazyGroup(ReadableGroup):
    """Lists its commands from the table; imports the one that is run or completed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.entries = COMMANDS
        for entry in self.entries.values():
            self.add_command(
                TyperCommand(entry.name, help=entry.summary, rich_help_panel=entry.panel)
            )

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        two_words = " ".join(args[:2])
        if two_words in self.entries:
            return two_words, load(self.entries[two_words]), args[2:]
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load(self.entries[name]) if name in self.entries else listed, rest

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """A shell completes one word; bash would quote the space in a name of two."""
        offered = super().shell_complete(ctx, incomplete)
        return [item for item in offered if " " not in item.value]


app = typer.Typer(
    cls=LazyGroup,
    context_settings=CONTEXT,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Register medical images.\n\n    carl register FIXED MOVING -o forward.h5 -w W.nii.gz",
    epilog="Help for each command: carl COMMAND --help",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"carl {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[  # noqa: ARG001 (read by its callback)
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
    ] = False,
) -> None:
    if debug:
        os.environ["CARL_DEBUG"] = "1"


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run `carl` with these arguments (those of the process when None) and exit."""
    given = list(sys.argv[1:] if args is None else args)
    if "--xml" in given or "--returnparameterfile" in given:
        from carl_cli.cli.slicer import answer, without_own_flags

        if told := answer(given):
            raise SystemExit(exit_code_of(lambda: typer.echo(told)))
        given = without_own_flags(given)
    raise SystemExit(exit_code_of(lambda: run(given)))


def run(args: Sequence[str] | None) -> None:
    """The command itself, its failures not caught; Typer ends it by SystemExit."""
    get_command(app)(args=args, prog_name="carl")


if __name__ == "__main__":
    main()

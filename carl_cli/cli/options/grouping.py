"""Options in groups: a command takes dataclasses, Typer sees one flat list of options; and
commands in groups of which one is the default.

@dataclass(frozen=True)
class Speed:
    threads: Annotated[int, typer.Option(help="…")] = 1

@grouped
def command(speed: Speed) -> None: ...

A group may hold groups in its turn: what several commands share is listed once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, ClassVar, get_type_hints

from typer.core import TyperGroup


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """The function with the fields of its dataclass parameters as parameters of its own."""
    groups = get_type_hints(function)
    groups.pop("return", None)

    def command(**values: Any) -> None:
        function(**{name: _built(group, values) for name, group in groups.items()})

    parameters = [p for group in groups.values() for p in _parameters(group)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


def _built(group: type[Any], values: dict[str, Any]) -> Any:
    hints = get_type_hints(group)
    return group(
        **{
            f.name: _built(hints[f.name], values) if is_dataclass(hints[f.name]) else values[f.name]
            for f in fields(group)
        }
    )


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    found = []
    for f in fields(group):
        if is_dataclass(hints[f.name]):
            found += _parameters(hints[f.name])
        else:
            found.append(_parameter(f.name, f.default, hints[f.name]))
    return found


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=empty if default is MISSING else default,
        annotation=annotation,
    )


class DefaultGroup(TyperGroup):
    """A group one of whose commands may go unnamed: it is meant where no command is named."""

    default: ClassVar[str]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

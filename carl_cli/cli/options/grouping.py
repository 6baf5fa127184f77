"""Options in groups: a command takes groups, Typer sees one flat list of options; and commands in
groups of which one is the default.

A group is an `option_group` of a library room, or `Some` of one, where what is not given stays
open, or a dataclass of other groups and of arguments that only the command line has:

@dataclass(frozen=True)
class Speed:
    threads: Annotated[int, typer.Option(help="…")] = 1

@grouped
def command(speed: Speed) -> None: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import (
    Annotated,
    Any,
    Generic,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import typer

from carl_cli.cli.brief import ReadableGroup
from carl_cli.cli.commands import CONTEXT
from carl_cli.cli.options.described import described
from carl_cli.preprocessing.options import Option, options_of

Group = TypeVar("Group")


@dataclass(frozen=True)
class Some(Generic[Group]):
    """Values for some options of a group, by the names of its fields."""

    values: Mapping[str, Any] = field(default_factory=dict)


class Argument(NamedTuple):
    """An argument or option of a group. name: that of Typer's parameter."""

    field: str
    name: str
    annotation: Any
    default: Any

    @property
    def parameter(self) -> inspect.Parameter:
        kind = inspect.Parameter.KEYWORD_ONLY
        default = inspect.Parameter.empty if self.default is MISSING else self.default
        return inspect.Parameter(self.name, kind, default=default, annotation=self.annotation)


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """The function with the options of its groups as parameters of its own."""
    groups = get_type_hints(function)
    groups.pop("return", None)

    def command(**values: Any) -> None:
        function(**{name: _built(group, values) for name, group in groups.items()})

    parameters = [a.parameter for group in groups.values() for a in _all_arguments(group)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


def changed(group: Any, values: Mapping[str, Any], kind: Any = None) -> Any:
    """The group with some options set otherwise, by their names; others are not looked at."""
    kind = kind or type(group)
    own = {a.field: values[a.name] for a in _arguments(kind) if a.name in values}
    if get_origin(kind) is Some:
        return Some({**group.values, **own})
    parts = {name: changed(getattr(group, name), values, of) for name, of in _parts(kind).items()}
    return replace(group, **own, **parts)


def _built(kind: Any, values: Mapping[str, Any]) -> Any:
    own = {a.field: values[a.name] for a in _arguments(kind)}
    if get_origin(kind) is Some:
        return Some({name: value for name, value in own.items() if value not in (None, [])})
    parts = {name: _built(of, values) for name, of in _parts(kind).items()}
    return kind(**own, **parts)


def _all_arguments(kind: Any) -> Iterator[Argument]:
    yield from _arguments(kind)
    for part in _parts(kind).values():
        yield from _all_arguments(part)


def _arguments(kind: Any) -> list[Argument]:
    """Those of the group itself, without those of the groups that it holds."""
    if get_origin(kind) is Some:
        return [_open(o) for o in options_of(get_args(kind)[0])]
    if hasattr(kind, "__pydantic_fields__"):
        return [_closed(o) for o in options_of(kind)]
    hints = get_type_hints(kind, include_extras=True)
    own = [f for f in fields(kind) if get_origin(hints[f.name]) is Annotated]
    return [Argument(f.name, f.name, hints[f.name], f.default) for f in own]


def _closed(o: Option) -> Argument:
    return Argument(o.field, o.name, Annotated[o.type, described(o)], o.default)


def _open(o: Option) -> Argument:
    return Argument(o.field, o.name, Annotated[o.type | None, described(o)], None)


def _parts(kind: Any) -> dict[str, Any]:
    """Field → type of the groups that this group holds."""
    if get_origin(kind) is Some or hasattr(kind, "__pydantic_fields__"):
        return {}
    hints = get_type_hints(kind)
    return {n: t for n, t in hints.items() if is_dataclass(get_origin(t) or t)}


class DefaultGroup(ReadableGroup):
    """A group one of whose commands may go unnamed: it is meant where no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def application(help: str, default: str = "") -> typer.Typer:
    """A command that has commands of its own; default: the one that may go unnamed."""
    return typer.Typer(
        cls=type("Group", (DefaultGroup,), {"default": default}) if default else ReadableGroup,
        no_args_is_help=True,
        add_completion=False,
        context_settings=CONTEXT,
        help=help,
    )

"""An option that is given twice, and takes one value, is refused: the last would win in silence."""

from __future__ import annotations

from collections import Counter
from typing import Any

from carl_cli.errors import UsageError


def refuse_repeats(command: Any) -> None:
    """Make a Click command, and those of a group, raise UsageError for such an option."""
    for inner in getattr(command, "commands", {}).values():
        refuse_repeats(inner)
    make_parser = command.make_parser

    def checking(context: Any) -> Any:
        parser = make_parser(context)
        parse_args = parser.parse_args

        def parsed(args: list[str]) -> Any:
            found = parse_args(args=args)
            _check(found[2])
            return found

        parser.parse_args = parsed
        return parser

    command.make_parser = checking


def _check(given: list[Any]) -> None:
    """given: the parameters in their order, one for each time. A switch without an opposite may
    be repeated: that changes nothing."""
    for parameter, times in Counter(given).items():
        harmless = getattr(parameter, "is_flag", True) and not parameter.secondary_opts
        if times > 1 and not (harmless or parameter.multiple):
            name = " ".join((*parameter.opts[:1], *parameter.secondary_opts))
            raise UsageError(f"{name} was given {times} times, it takes one value", "keep one")

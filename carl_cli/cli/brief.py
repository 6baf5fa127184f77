"""Help that a beginner can read: a few options first, `--help-all` shows the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import cleandoc
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup

from carl_cli.cli.usage import in_plain_words

ALL = "--help-all"
FEW = {
    "register": "fixed moving forward inverse warped report overwrite weights io modality "
    "fixed_mask init",
    "warp": "inputs output reference transforms interpolation background spacing overwrite",
    "batch": "pairs atlas moving_dir out_dir warped inverse report resume workers executor io",
    "series": "moving aligned transforms table report overwrite reference transform",
    "template": "images pattern labels channel output initial rounds average sharpen io resume "
    "workers executor overwrite",
    "score": "cases fixed moving transform inverse fixed_seg moving_seg fixed_points "
    "moving_points out figure overwrite",
}
"""Command → the arguments and options of its short help; other commands show all of theirs."""
CHOICES_WIDTH = 20  # characters of a line of choices


def reflowed(text: str) -> str:
    """Paragraphs as one line each: the terminal breaks them. Indented lines, examples, stay, and
    brackets are no markup of rich's."""
    paragraphs = cleandoc(text).replace("[", r"\[").split("\n\n")
    return "\n\n".join(p if p.startswith("    ") else " ".join(p.split()) for p in paragraphs)


class ReadableGroup(TyperGroup):
    """A group of commands. default: the one that may go unnamed, whose options its help shows."""

    default: ClassVar[str] = ""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        unnamed: Any = self.commands.get(self.default)
        own, whole, others = self.params, self.help, [] if unnamed is None else unnamed.others()
        self.help = reflowed(self.help or "")
        self.params = own if unnamed is None else [*own, *unnamed.params]
        if others:
            self.epilog = f"{len(others)} more options: {ctx.command_path} {unnamed.name} {ALL}"
        try:
            with _hidden(others):
                _say_plainly(self.get_params(ctx), ctx)
                super().format_help(ctx, formatter)
        finally:
            self.params, self.help = own, whole


class BriefCommand(TyperCommand):
    """A command whose help shows FEW of its options, unless --help-all asks for all."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ALL in args:
            ctx.meta[ALL] = True
            args = ["--help"]
        with in_plain_words():
            return list(super().parse_args(ctx, args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        whole, self.help = self.help, reflowed(self.help or "")
        others = [] if ctx.meta.get(ALL) else self.others()
        if others:
            self.epilog = f"{len(others)} more options: {ctx.command_path} {ALL}"
        try:
            with _hidden(others):
                _say_plainly(self.get_params(ctx), ctx)
                super().format_help(ctx, formatter)
        finally:
            self.help, self.epilog = whole, None

    def others(self) -> list[Any]:
        """Options that the brief help leaves out."""
        few = FEW.get(self.name or "", "").split()
        return [p for p in self.params if few and p.name not in few and not _is_hidden(p)]


def _say_plainly(parameters: Sequence[Any], ctx: Any) -> None:
    """What an option takes, in words of users: Typer has `<bool>` for a flag, which takes nothing,
    and breaks a list of choices in the middle of a word."""
    for parameter in parameters:
        if hasattr(parameter, "display_type_rich"):  # since Typer 0.29
            flag = getattr(parameter, "is_flag", False)
            kind = "" if flag else plain_kind(parameter.display_type_rich(ctx) or "")
            parameter.display_type_rich = lambda ctx, kind=kind: kind  # noqa: ARG005


def plain_kind(kind: str) -> str:
    """`<list[Path]>` becomes `<path>`, `<int range>` `<int>`; choices are broken between them."""
    plain = re.sub(r"list\[(\w+)\]", lambda match: match[1].lower(), kind.replace("\n", ""))
    first, *others = plain.replace(" range", "").replace("<str>", "<text>").split("|")
    lines = [first]
    for choice in others:
        fits = len(lines[-1]) + len(choice) < CHOICES_WIDTH
        lines[-1] += "|" if fits else "|\n"
        lines[-1:] = [lines[-1] + choice] if fits else [lines[-1], choice]
    return "".join(lines)


def _is_hidden(parameter: Any) -> bool:
    return bool(getattr(parameter, "hidden", False))


@contextmanager
def _hidden(parameters: list[Any]) -> Iterator[None]:
    for parameter in parameters:
        parameter.hidden = True
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.hidden = False

"""Help that a beginner can read: a few options first, `--help-all` shows the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import cleandoc
from typing import Any

from typer.core import TyperCommand

ALL = "--help-all"
FEW = {
    "register": "fixed moving forward inverse warped report overwrite weights io modality "
    "fixed_mask init",
    "warp": "inputs output reference transforms interpolation background spacing overwrite",
    "batch": "pairs atlas moving_dir out_dir warped inverse report resume workers executor io",
    "series": "moving aligned transforms table report overwrite reference transform",
    "template": "images pattern labels output initial rounds average sharpen io resume workers "
    "executor overwrite",
    "score": "cases fixed moving transform inverse fixed_seg moving_seg fixed_points "
    "moving_points out figure overwrite",
}
"""Command → the arguments and options of its short help; other commands show all of theirs."""


def reflowed(text: str) -> str:
    """Paragraphs as one line each: the terminal breaks them. Indented lines, examples, stay, and
    brackets are no markup of rich's."""
    paragraphs = cleandoc(text).replace("[", r"\[").split("\n\n")
    return "\n\n".join(p if p.startswith("    ") else " ".join(p.split()) for p in paragraphs)


class BriefCommand(TyperCommand):
    """A command whose help shows FEW of its options, unless --help-all asks for all."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ALL in args:
            ctx.meta[ALL] = True
            args = ["--help"]
        return list(super().parse_args(ctx, args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        whole, self.help = self.help, reflowed(self.help or "")
        others = [] if ctx.meta.get(ALL) else self._others()
        if others:
            self.epilog = f"{len(others)} more options: {ctx.command_path} {ALL}"
        try:
            with _hidden(others):
                super().format_help(ctx, formatter)
        finally:
            self.help, self.epilog = whole, None

    def _others(self) -> list[Any]:
        few = FEW.get(self.name or "", "").split()
        return [p for p in self.params if few and p.name not in few and not _is_hidden(p)]


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

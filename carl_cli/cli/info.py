"""`carl info`: what a transform, an image or a point file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from carl_cli.cli.options.shared import LogFile, Quiet, Verbose
from carl_cli.io.transforms import Program


def info(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Transform, image or points.")],
    program: Annotated[
        Program | None,
        typer.Option("--from", help="Program whose conventions the file follows."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Describe a transform, an image or points: frame, domain, magnitude, folds.

    For a transform, also what each tool will make of the file.

    carl info forward.h5
    """
    from carl_cli.cli.console import start
    from carl_cli.workflows.info import inspect

    start(verbose, quiet, log_file)
    facts = inspect(path, program)
    if json:
        from json import dumps

        typer.echo(dumps(facts, indent=2))
    else:
        for line in _lines(facts):
            typer.echo(line)


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in facts.items():
        label = f"{indent}{name.replace('_', ' ')}: "
        if isinstance(value, dict):
            lines += [label.rstrip(), *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(label.rstrip())
            for item in value:
                first, *rest = _lines(item, indent + "    ")
                lines += [f"{indent}  - {first.strip()}", *rest]
        else:
            lines.append(label + _text(value))
    return lines


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        inner = [_text(item) for item in value]
        return "; ".join(inner) if value and isinstance(value[0], list) else " ".join(inner)
    return str(value)

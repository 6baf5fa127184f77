"""Scripts that belong to no package, as modules; command lines that pages show."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from carl_cli.cli.app import load
from carl_cli.cli.commands import COMMANDS


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def understood(words: Sequence[str]) -> None:
    """The command line `carl WORDS`: its options exist and take such values. Nothing is run."""
    name = next(n for n in (" ".join(words[:2]), words[0]) if n in COMMANDS)
    command: Any = load(COMMANDS[name])
    rest = list(words[len(name.split()) :])
    own = getattr(command, "commands", {})
    if own and rest[0] in own:
        name, command = f"{name} {rest[0]}", own[rest.pop(0)]
    elif own:
        assert command.default, f"carl {name} has no command {rest[0]}"
        assert not rest[0].isalpha() or rest[0].isupper(), f"no command, no file: {rest[0]}"
        command = own[command.default]
    command.make_context(f"carl {name}", rest)

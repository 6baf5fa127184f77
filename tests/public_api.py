"""`python -m tests.public_api > tests/public_api.txt`: names, signatures and fields of carl_cli.

What stands there is promised to users (docs/project/stability.md): a change needs a line in the
changelog.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator

import carl_cli


def document() -> str:
    return "".join(f"{line}\n" for name in sorted(carl_cli._PUBLIC) for line in _lines(name))


def _lines(name: str) -> Iterator[str]:
    found = getattr(carl_cli, name)
    yield f"{name}{_signature(found)}"
    if inspect.isclass(found):
        fields = (
            {f.name for f in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else ()
        )
        for own in sorted(vars(found)):
            if not own.startswith("_") and own not in fields:
                yield f"    .{own}{_signature(inspect.getattr_static(found, own))}"


def _signature(found: object) -> str:
    """Without annotations: a wider type breaks nobody, and their text differs by Python version."""
    if isinstance(found, classmethod | staticmethod):
        found = found.__func__
    if not callable(found):
        return ""
    signature = inspect.signature(found)
    plain = [
        p.replace(annotation=p.empty, default=_default(p.default))
        for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


class _Word(str):
    """A default that is shown without quotes."""

    __repr__ = str.__str__


def _default(value: object) -> object:
    """Functions by their names, dataclasses without their fields, all else as it is."""
    if inspect.isfunction(value):
        return _Word(value.__name__)
    return _Word(f"{type(value).__name__}()") if dataclasses.is_dataclass(value) else value


if __name__ == "__main__":
    print(document(), end="")

"""Options, each described once: name, type, bounds, choices, default and help text.

A group of options is a frozen dataclass whose fields pydantic checks. The command line, the
columns of a table, the record and the library take all they know of an option from there. Outside
Python an option may have another name than its field: the `serialization_alias` (the field
learning_rate is --io-lr on the command line and io_lr in a table and in the record).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from typing_extensions import dataclass_transform

from carl_cli.errors import UsageError, told

Group = TypeVar("Group")
_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


class Option(NamedTuple):
    """One field of a group. name: outside Python. type: without what pydantic checks.

    checks: what pydantic checks beside the type, bounds among it.
    """

    name: str
    field: str
    type: Any
    checked_type: Any
    checks: tuple[Any, ...]
    default: Any
    help: str

    @property
    def flag(self) -> str:
        return self.name.replace("_", "-")


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def option_group(cls: type[Group]) -> type[Group]:
    """A frozen dataclass that raises UsageError for a value that it does not take."""
    group: Any = checked_dataclass(frozen=True, config=_CONFIG)(cls)
    group.__init__ = _refusing(group, group.__init__)
    made: type[Group] = group
    return made


def _refusing(group: Any, build: Callable[..., None]) -> Callable[..., None]:
    """The constructor, with pydantic's first complaint in one line."""
    names = [f.name for f in fields(group)]
    called = {o.field: f"{o.field} (--{o.flag})" for o in options_of(group) if o.flag != o.field}

    @wraps(build)
    def checked(self: Any, *args: Any, **values: Any) -> None:
        if len(args) > len(names):
            raise TypeError(f"{group.__name__} takes {len(names)} values, found {len(args)}")
        try:
            build(self, **dict(zip(names, args, strict=False)), **values)
        except ValidationError as error:
            raise UsageError(
                told(error.errors()[0], called), "give another value, or leave it out"
            ) from None

    return checked


def options_of(group: Any) -> list[Option]:
    """The options of a group: its fields with a help text, which all have a default."""
    types = get_type_hints(group)
    return [
        Option(
            info.serialization_alias or field,
            field,
            types[field],
            info.annotation,
            tuple(info.metadata),
            info.default,
            info.description,
        )
        for field, info in group.__pydantic_fields__.items()
        if info.description
    ]


def cells_of(group: Any) -> dict[str, Any]:
    """The options of a group as fields of a pydantic model, by name; None: not given."""
    return {
        o.name: (Annotated[(o.checked_type | None, *o.checks, Field())], None)
        for o in options_of(group)
    }


def noted(group: Any) -> dict[str, Any]:
    """Name → value of the options that have one, for the record; JSON knows lists, no tuples."""
    values = {o.name: getattr(group, o.field) for o in options_of(type(group))}
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] < limits[1]:
        raise ValueError(f"LOW must be below HIGH, found {limits[0]:g} {limits[1]:g}")
    return limits


def _percent(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] < limits[1] <= 100:
        raise ValueError(f"0 <= LOW < HIGH <= 100 expected, found {limits[0]:g} {limits[1]:g}")
    return limits


Modality = Literal["auto", "ct", "mr"]
Window = Annotated[tuple[float, float], AfterValidator(_rising)]
Percentiles = Annotated[tuple[float, float], AfterValidator(_percent)]


@option_group
class ImageOptions:
    """How the stored values of the two images are read."""

    modality: Annotated[
        Modality, Field(description="Modality of both images; auto decides by their values.")
    ] = "auto"
    fixed_modality: Annotated[
        Modality | None, Field(description="Modality of the fixed image alone.")
    ] = None
    moving_modality: Annotated[
        Modality | None, Field(description="Modality of the moving image alone.")
    ] = None
    window: Annotated[
        Window | None, Field(description="CT: HU that become black and white, LOW HIGH.")
    ] = None
    percentiles: Annotated[
        Percentiles | None,
        Field(description="Other images: percentiles that become black and white, LOW HIGH."),
    ] = None

    @property
    def modalities(self) -> tuple[Modality, Modality]:
        """Of the fixed and of the moving image."""
        return self.fixed_modality or self.modality, self.moving_modality or self.modality


DEFAULT_OPTIONS = ImageOptions()

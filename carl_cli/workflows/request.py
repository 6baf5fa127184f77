"""What a case is: the files that go in, the files that come out, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from carl_cli.io.transforms import split_program

if TYPE_CHECKING:
    from carl_cli.registration.register import RegistrationOptions


@dataclass(frozen=True)
class CaseInputs:
    """Paths. Masks and segmentations may have grids of their own; points are in LPS or RAS as
    their file says. series_uid and time_index choose a volume where a file holds several. strict:
    images that no orthogonal grid holds are refused, not resampled."""

    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    initial_transform: Path | None = None
    fixed_seg: Path | None = None
    moving_seg: Path | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None
    series_uid: str | None = None
    time_index: int | None = None
    strict: bool = False

    def paths(self) -> dict[str, Path]:
        """Role → file; an initial transform without the prefix that names its program."""
        found = _paths(self)
        if self.initial_transform is not None:
            _, plain = split_program(str(self.initial_transform))
            found["initial_transform"] = Path(plain)
        return found


@dataclass(frozen=True)
class CaseOutputs:
    """Paths of what is wanted. forward: fixed → moving points; inverse the other way."""

    forward: Path | None = None
    inverse: Path | None = None
    warped: Path | None = None
    inverse_warped: Path | None = None
    jacobian: Path | None = None
    confidence: Path | None = None
    figure: Path | None = None
    report: Path | None = None
    json: Path | None = None

    def paths(self) -> dict[str, Path]:
        return _paths(self)


def _paths(named: CaseInputs | CaseOutputs) -> dict[str, Path]:
    values = {f.name: getattr(named, f.name) for f in fields(named)}
    return {role: path for role, path in values.items() if isinstance(path, Path)}


@dataclass(frozen=True)
class RunSettings:
    """How outputs are written, and what the record tells of the run.

    field_spacing: "native" (the image's grid), "network", or mm, of dense fields.
    workers: processes like this one that share the machine's memory.
    """

    field_spacing: str = "native"
    precision: Literal["float", "double"] = "float"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    deterministic: bool = False
    workers: int = 1
    noted: Mapping[str, Any] = field(default_factory=dict)


DEFAULT_SETTINGS = RunSettings()


@dataclass(frozen=True)
class Plan:
    """What is to be read, done and written; as in `run_case`."""

    inputs: CaseInputs
    outputs: CaseOutputs
    options: RegistrationOptions
    settings: RunSettings

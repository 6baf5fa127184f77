"""A published experiment as plain data: which files of a data set are a pair, what to tell.

A protocol is a TOML file (examples/protocols). It names files by templates in which {fixed} and
{moving} stand for the two ids of a pair, and lists the pairs, itself or through a file of the
data set. `protocol_pairs` finds the pairs, `protocol_files` makes the table that is registered.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from carl_cli.errors import InputError, UsageError
from carl_cli.io.atomic import regular
from carl_cli.preprocessing.rule import IntensityRule, PreprocessRule
from carl_cli.system import shipped

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


Pair = tuple[str, str]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Obtain(_Strict):
    """Where the data set can be had, and what may be done with it."""

    url: str
    licence: str

    @property
    def told(self) -> str:
        """The end of a hint about files that are not there."""
        return f"the data set is at {self.url} ({self.licence})"


class Files(_Strict):
    """Templates relative to the folder of the data set."""

    fixed: str
    moving: str
    fixed_seg: str | None = None
    moving_seg: str | None = None
    fixed_points: str | None = None
    moving_points: str | None = None
    fixed_mask: str | None = None
    moving_mask: str | None = None


class Draw(_Strict):
    """`count` random pairs as the authors' evaluations draw them, from the cases that the data
    set has: `ids` (a pattern of one file name, * for what is unknown) with the numbers from
    numbers[0] to numbers[1] in it."""

    ids: str
    numbers: tuple[int, int]
    count: int = Field(ge=1)
    seed: int

    @model_validator(mode="after")
    def _names_something(self) -> Draw:
        if self.numbers[0] > self.numbers[1]:
            raise ValueError(f"numbers from {self.numbers[0]} to {self.numbers[1]}")
        if self._pattern(0) == self._pattern(1):
            raise ValueError(f"ids without a place for the number: {self.ids!r}")
        return self

    def _pattern(self, number: int) -> str:
        try:
            return self.ids.format(number)
        except (KeyError, IndexError) as error:
            raise ValueError(f"ids can't be filled with a number: {self.ids!r}") from error

    def patterns(self) -> list[str]:
        return [self._pattern(number) for number in range(self.numbers[0], self.numbers[1] + 1)]


class Pairs(_Strict):
    """Exactly one source. listed: [fixed, moving] ids. drawn: by a Draw. table: CSV with columns
    fixed and moving, in the data set's folder. dataset_json: Learn2Reg's, whose list json_key
    holds the pairs; a pair's id there is its file name."""

    listed: tuple[Pair, ...] = ()
    drawn: Draw | None = None
    table: str = ""
    dataset_json: str = ""
    json_key: str = "registration_val"

    @model_validator(mode="after")
    def _one_source(self) -> Pairs:
        if sum(map(bool, (self.listed, self.drawn, self.table, self.dataset_json))) != 1:
            raise ValueError("give one of listed, drawn, table and dataset_json")
        return self


class Preprocess(_Strict):
    """What the paper's networks were given: the whole image on this grid.

    Intensities are divided by the image's maximum, which becomes `maximum`; or else `window` goes
    to 0 … 1, clipped. outside_mask: what voxels outside of the masks are set to before that; None:
    nothing is masked. crop_uniform: as in PreprocessRule.
    """

    shape_zyx: tuple[int, int, int]
    maximum: float = Field(default=1.0, gt=0)
    window: tuple[float, float] | None = None
    outside_mask: float | None = None
    crop_uniform: int | None = Field(default=None, ge=0)

    def rule(self) -> PreprocessRule:
        """As the authors do it: no low-pass before shrinking, nothing clipped after a division."""
        return PreprocessRule(
            grid_rule="stretch",
            shape_zyx=self.shape_zyx,
            crop_uniform=self.crop_uniform,
            anti_alias=False,
            intensity=IntensityRule(
                ct_window=self.window,
                lower_percentile=None,
                upper_percentile=100,
                percentiles_of="image",
                maximum=self.maximum,
            ),
        )


class Submission(_Strict):
    """Files that a challenge wants. learn2reg-half: displacement in voxels of the full image,
    (3, X/2, Y/2, Z/2), float16, as disp_FFFF_MMMM.npz in `folder`."""

    kind: Literal["learn2reg-half"]
    folder: str


class Protocol(_Strict):
    """points: `lps` as in any point file, or DIR-Lab's voxel numbers that start at 1.

    missing_label: Dice of a label that one image of a pair lacks; "zero" is how the authors count.
    published: method → figure (a column of the scores) → value, from the source published_in.
    """

    name: str
    about: str = ""
    obtain: Obtain
    files: Files
    pairs: Pairs
    points: Literal["lps", "voxels from 1"] = "lps"
    preprocess: Preprocess
    missing_label: Literal["undefined", "zero"] = "undefined"
    submission: Submission | None = None
    figures: tuple[str, ...] = Field(min_length=1)
    published_in: str
    published: dict[str, dict[str, float]]

    @model_validator(mode="after")
    def _masks_are_there(self) -> Protocol:
        masks = (self.files.fixed_mask, self.files.moving_mask)
        if self.preprocess.outside_mask is not None and None in masks:
            raise ValueError("outside_mask needs fixed_mask and moving_mask among the files")
        return self


def locate_protocol(name: str) -> Path:
    """The file of that path, or the protocol of that name. Raises InputError with all names."""
    if Path(name).suffix == ".toml":
        return Path(name)
    folder = shipped("_protocols", "examples/protocols")
    known = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if name not in known:
        raise InputError(f"no protocol {name!r}", f"give a TOML file, or one of {', '.join(known)}")
    return known[name]


def read_protocol(path: Path) -> Protocol:
    """Raises InputError (no such file, not TOML), UsageError (a key that is wrong; names it)."""
    try:
        return Protocol.model_validate(tomllib.loads(regular(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "name a protocol (TOML)") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{path}: {place}: {first['msg']}", "see examples/protocols") from error
    except (ValueError, RecursionError) as error:  # of a number of 5,000 digits, too
        raise InputError(f"{path} is not TOML: {error}") from error

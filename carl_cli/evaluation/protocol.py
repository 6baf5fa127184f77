"""A published experiment as plain data: which files of a data set are a pair, what to tell.

A protocol is a TOML file (examples/protocols). It names files by templates in which {fixed} and
{moving} stand for the two ids of a pair, and lists the pairs, itself or through a file of the
data set.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from carl_cli.errors import InputError, UsageError, told
from carl_cli.geometry import apply_affine
from carl_cli.io.atomic import atomic_path
from carl_cli.io.images.files import read_grid
from carl_cli.preprocessing.rule import IntensityRule, PreprocessRule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


Pair = tuple[str, str]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
    """Random pairs as the authors' evaluations draw them, from the cases that the data set has."""

    ids: str  # pattern of a file name: {} for a case's number, * for what is unknown
    numbers: tuple[int, int]  # of the first and the last case
    count: int = Field(ge=1)  # of pairs
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

    def pairs(self, pool: Sequence[str]) -> list[Pair]:
        """The moving image is drawn first. A pair may come twice, and be one image twice."""
        chance = random.Random(self.seed)
        drawn = [[chance.choice(pool) for _ in range(2)] for _ in range(self.count)]
        return [(fixed, moving) for moving, fixed in drawn]


class Pairs(_Strict):
    """Where the pairs stand: exactly one of listed, drawn, table and dataset_json."""

    listed: tuple[Pair, ...] = ()  # [fixed, moving] ids
    drawn: Draw | None = None
    table: str = ""  # CSV with columns fixed and moving, in the data set's folder
    dataset_json: str = ""  # Learn2Reg's; a pair's id there is its file name
    json_key: str = "registration_val"  # of the list in it that holds the pairs

    @model_validator(mode="after")
    def _one_source(self) -> Pairs:
        if sum(map(bool, (self.listed, self.drawn, self.table, self.dataset_json))) != 1:
            raise ValueError("give one of listed, drawn, table and dataset_json")
        return self


class Preprocess(_Strict):
    """What the paper's networks were given: for weights that were trained so."""

    shape_zyx: tuple[int, int, int]
    divide_by_maximum: bool = True

    def rule(self) -> PreprocessRule:
        """The whole image on this grid; divided, or with the default intensities."""
        divided = IntensityRule(
            ct_window=None, lower_percentile=None, upper_percentile=100, percentiles_of="image"
        )
        return PreprocessRule(
            grid_rule="stretch",
            shape_zyx=self.shape_zyx,
            intensity=divided if self.divide_by_maximum else IntensityRule(),
        )


class Submission(_Strict):
    """Files that a challenge wants."""

    kind: Literal["learn2reg-half"]  # see `submission`
    folder: str


class Protocol(_Strict):
    """An experiment: its data set, its pairs, and the figures that are told."""

    name: str
    about: str = ""
    files: Files
    pairs: Pairs
    points: Literal["lps", "voxels from 1"] = "lps"  # as in any point file, or DIR-Lab's
    preprocess: Preprocess | None = None  # None: as the weights say
    submission: Submission | None = None
    figures: tuple[str, ...] = Field(min_length=1)  # columns of the scores
    published: dict[str, dict[str, float]] = {}  # method → figure → value, from the literature


def read_protocol(path: Path) -> Protocol:
    """Raises InputError (no such file, not TOML), UsageError (a key that is wrong; names it)."""
    try:
        return Protocol.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "name a protocol (TOML)") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {told(error.errors()[0])}", "see examples/protocols") from error


def pairs_of(protocol: Protocol, data: Path) -> list[Pair]:
    """(fixed, moving) ids, in order. Raises InputError for a list that can't be read."""
    source = protocol.pairs
    if source.listed:
        return list(source.listed)
    if source.drawn:
        return source.drawn.pairs(_pool(protocol.files, source.drawn, data))
    path = data / (source.table or source.dataset_json)
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _of_json(text, source.json_key) if source.dataset_json else _of_csv(text)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}", "the protocol takes its pairs from it"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no list of pairs: {error!r}", "see the protocol") from error
    if not found:
        raise InputError(f"{path}: no pairs", "see the protocol")
    return found


def _pool(files: Files, draw: Draw, data: Path) -> list[str]:
    """Ids of the cases that have both an image and a segmentation, by number."""
    patterns = draw.patterns()
    found = [sorted(_ids(files.fixed, data, pattern)) for pattern in patterns]
    segmented = files.fixed_seg or files.fixed
    pool = [ids[0] for ids in found if ids and (data / segmented.format(fixed=ids[0])).exists()]
    if not pool:
        raise InputError(
            f"{data}: no case from {patterns[0]} to {patterns[-1]}",
            "see how the protocol wants the files laid out",
        )
    return pool


def _ids(template: str, data: Path, pattern: str) -> Iterator[str]:
    before, _, after = template.partition("{fixed}")
    for path in data.glob(f"{before}{pattern}{after}"):
        yield path.relative_to(data).as_posix().removeprefix(before).removesuffix(after)


def _of_csv(text: str) -> list[Pair]:
    return [
        (row["fixed"].strip(), row["moving"].strip()) for row in csv.DictReader(text.splitlines())
    ]


def _of_json(text: str, key: str) -> list[Pair]:
    return [(Path(p["fixed"]).name, Path(p["moving"]).name) for p in json.loads(text)[key]]


def prepared_table(protocol: Protocol, data: Path, out: Path) -> Path:
    """Write out/pairs.csv for `carl batch`, and landmarks in LPS beside it; returns the table.

    Raises InputError naming the files that are missing.
    """
    pairs = pairs_of(protocol, data)
    rows = [_row(protocol, data, pair) for pair in pairs]
    missing = [path for row in rows for path in row.values() if not path.exists()]
    if missing:
        raise InputError(
            f"{len(missing)} files of the data set are missing, the first is {missing[0]}",
            "see how the protocol wants them laid out",
        )
    out.mkdir(parents=True, exist_ok=True)
    if protocol.points == "voxels from 1":
        rows = [_with_lps_points(row, out / "landmarks", k) for k, row in enumerate(rows, 1)]
    return _write_table(out / "pairs.csv", list(_case_ids(pairs)), rows)


def _case_ids(pairs: Iterable[Pair]) -> Iterator[str]:
    """A pair that comes again has its number behind its name."""
    seen: Counter[str] = Counter()
    for name in map(case_id, pairs):
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}_{seen[name]}"


def case_id(pair: Pair) -> str:
    """A name for folders: the two ids without their suffixes."""
    fixed, moving = (name.split(".")[0] for name in pair)
    return fixed if fixed == moving else f"{fixed}_{moving}"


def _row(protocol: Protocol, data: Path, pair: Pair) -> dict[str, Path]:
    names = {"fixed": pair[0], "moving": pair[1]}
    templates = protocol.files.model_dump(exclude_none=True)
    try:
        filled = {role: template.format(**names) for role, template in templates.items()}
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(f"a template of the protocol can't be filled: {error!r}") from error
    return {role: (data / path).absolute() for role, path in filled.items()}


def _with_lps_points(row: Mapping[str, Path], folder: Path, number: int) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    changed = dict(row)
    for side in ("fixed", "moving"):
        name = f"{side}_points"
        if name in row:
            changed[name] = (folder / f"{number:03}_{side}.csv").absolute()
            _write_lps(row[name], row[side], changed[name])
    return changed


def _write_lps(points: Path, image: Path, out: Path) -> None:
    """Rows of x y z voxel numbers, the first voxel is 1 → LPS mm of the voxels' centres."""
    try:
        index = np.loadtxt(points, ndmin=2)[:, :3] - 1
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{points}: not three numbers a line: {error}", "see the protocol"
        ) from error
    grid = read_grid(image)
    if ((index < -0.5) | (index > np.array(grid.size_xyz) - 0.5)).any():
        raise InputError(
            f"{points}: landmarks lie outside of {image}",
            "keep the voxels in the order in which the data set has them",
        )
    values = apply_affine(grid.index_to_lps, index)
    with atomic_path(out) as temporary:
        np.savetxt(temporary, values, delimiter=",", header="x,y,z", comments="", fmt="%.6f")


def _write_table(path: Path, ids: Sequence[str], rows: Sequence[Mapping[str, Path]]) -> Path:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", *rows[0]])
        writer.writerows([name, *row.values()] for name, row in zip(ids, rows, strict=True))
    return path

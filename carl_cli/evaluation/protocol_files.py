"""From the files of a data set to the table of pairs that `carl batch` registers."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from carl_cli.errors import InputError, UsageError
from carl_cli.evaluation.protocol import Pair, Preprocess, Protocol
from carl_cli.evaluation.protocol_pairs import pairs_of
from carl_cli.geometry import apply_affine
from carl_cli.io.atomic import atomic_path, make_folder
from carl_cli.io.images.files import read_grid, read_image, write_image
from carl_cli.io.resample import resample

SIDES = ("fixed", "moving")
Row = dict[str, Path]
_SHOWN = 3


def prepared_table(protocol: Protocol, data: Path, out: Path, as_the_paper: bool) -> Path:
    """Write out/pairs.csv for `carl batch`, and what it needs beside it; returns the table.

    Landmarks in LPS go to out/landmarks; as_the_paper: masked images to out/images, where the
    protocol masks. Raises InputError naming the files that are missing.
    """
    pairs = pairs_of(protocol, data)
    check_complete(protocol, data, pairs)
    rows: list[Row] = [_row(protocol, data, pair) for pair in pairs]
    make_folder(out)
    if protocol.points == "voxels from 1":
        rows = [_with_lps_points(row, out / "landmarks", k) for k, row in enumerate(rows, 1)]
    if as_the_paper:
        seen = [_as_seen(row, protocol.preprocess, out, k) for k, row in enumerate(rows, 1)]
        return _write_table(out / "pairs.csv", list(_case_ids(pairs)), seen)
    return _write_table(out / "pairs.csv", list(_case_ids(pairs)), rows)


def missing_files(protocol: Protocol, data: Path, pairs: Sequence[Pair]) -> list[str]:
    """Paths relative to the data set's folder, each once, in the order of the pairs."""
    rows = [_row(protocol, data, pair) for pair in pairs]
    paths = dict.fromkeys(path for row in rows for path in row.values())
    folder = data.absolute()
    return [path.relative_to(folder).as_posix() for path in paths if not path.exists()]


def check_complete(protocol: Protocol, data: Path, pairs: Sequence[Pair]) -> None:
    """Raises InputError that names the first missing files and tells where they can be had."""
    if missing := missing_files(protocol, data, pairs):
        first = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise InputError(
            f"{data}: {len(missing)} files of {protocol.name} are missing: {first}",
            f"--dry-run lists them all; {protocol.obtain.told}",
        )


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


def _row(protocol: Protocol, data: Path, pair: Pair) -> Row:
    names = {"fixed": pair[0], "moving": pair[1]}
    templates = protocol.files.model_dump(exclude_none=True)
    try:
        filled = {role: template.format(**names) for role, template in templates.items()}
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(f"a template of the protocol can't be filled: {error!r}") from error
    return {role: (data / path).absolute() for role, path in filled.items()}


def _with_lps_points(row: Row, folder: Path, number: int) -> Row:
    make_folder(folder)
    changed = dict(row)
    for side in SIDES:
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


def _as_seen(
    row: Mapping[str, Path], preprocess: Preprocess, out: Path, number: int
) -> dict[str, Path | str]:
    """The row for the paper's networks: images masked, no masks for the similarity, and the
    window of intensities applied whatever the values look like."""
    changed: dict[str, Path | str] = dict(row)
    for side in SIDES:
        mask = changed.pop(f"{side}_mask", None)
        if preprocess.outside_mask is not None and mask is not None:
            masked = (out / "images" / f"{number:03}_{side}.nii.gz").absolute()
            _write_masked(row[side], Path(mask), preprocess.outside_mask, masked)
            changed[side] = masked
        if preprocess.window is not None:
            changed[f"{side}_modality"] = "ct"
    return changed


def _write_masked(image: Path, mask: Path, outside: float, out: Path) -> None:
    found, drawn = read_image(image), read_image(mask)
    inside = resample(drawn, found.grid, interpolator="nearest").array != 0
    if not inside.any():
        raise InputError(f"{mask}: the mask is empty on the grid of {image}", "check its header")
    make_folder(out.parent)
    values = np.where(inside, found.array.astype(np.float32), np.float32(outside))
    write_image(out, replace(found, array=values))


def _write_table(path: Path, ids: Sequence[str], rows: Sequence[Mapping[str, Path | str]]) -> Path:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", *rows[0]])
        writer.writerows([name, *row.values()] for name, row in zip(ids, rows, strict=True))
    return path

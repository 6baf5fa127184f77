"""Motion correction of a time series: carl beside ANTs on a head that moves in a known way.

    python -m benchmarks.series

Errors of the middle of the head in mm and of its angle in degrees, each volume against the first;
seconds of one thread, start, reading and writing included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.contest.contenders import ONE_THREAD
from benchmarks.measure import process_cost
from carl_cli.geometry import Array
from carl_cli.io.images.files import write_image
from carl_cli.io.transforms.files import read_series
from tests.conftest import make_grid
from tests.moving import errors, moving_head, walk

SIZE, SPACING_MM = (64, 64, 40), (3.0, 3.0, 3.0)
ANTS_CODE = """
import json, sys, ants
source, aligned, motion = sys.argv[1:]
found = ants.motion_correction(ants.image_read(source))
ants.image_write(found["motion_corrected"], aligned)
rows = [ants.read_transform(paths[0]) for paths in found["motion_parameters"]]
numbers = [[r.parameters.tolist(), r.fixed_parameters.tolist()[:3]] for r in rows]
open(motion, "w").write(json.dumps(numbers))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volumes", type=int, default=30)
    parser.add_argument("--size", type=int, nargs=3, default=SIZE)
    chosen = parser.parse_args(arguments)
    motion = walk(chosen.volumes)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = folder / "series.nii.gz"
        write_image(source, moving_head(make_grid(tuple(chosen.size), SPACING_MM), motion).series)
        still = [np.eye(4)] * chosen.volumes
        print("| | largest error, mm | degrees | mean, mm | degrees | CPU seconds |")
        print("|---|---|---|---|---|---|")
        print(_row("before", still, motion, None))
        ants, ants_seconds = _by_ants(source, folder)
        print(_row("ants.motion_correction", ants, motion, ants_seconds))
        carl, seconds = _by_carl(source, folder)
        print(_row("carl series", carl, motion, seconds))
        print(f"\nratio of seconds, ANTs : carl  {ants_seconds / seconds:.1f}")


def _row(name: str, found: list[Array], true: list[Array], seconds: float | None) -> str:
    """Each map relative to that of the first volume, as the two references differ."""
    back = np.linalg.inv(found[0])
    each = np.array([errors(f @ back, t) for f, t in zip(found, true, strict=True)])
    figures = " | ".join(f"{value:.3f}" for value in (*each.max(0), *each.mean(0)))
    return f"| {name} | {figures} | {'' if seconds is None else f'{seconds:.1f}'} |"


def _by_carl(source: Path, folder: Path) -> tuple[list[Array], float]:
    line = [sys.executable, "-m", "carl_cli.cli.app", "series", str(source), "-q", "--threads", "1"]
    line += ["-o", str(folder / "carl.nii.gz"), "--transforms", str(folder / "carl.h5")]
    seconds = process_cost(line, ONE_THREAD).cpu_seconds
    return [transform.homogeneous for transform in read_series(folder / "carl.h5")], seconds


def _by_ants(source: Path, folder: Path) -> tuple[list[Array], float]:
    files = [str(folder / name) for name in ("ants.nii.gz", "ants.json")]
    seconds = process_cost([sys.executable, "-c", ANTS_CODE, str(source), *files], ONE_THREAD)
    return [_matrix(*row) for row in json.loads(Path(files[1]).read_text())], seconds.cpu_seconds


def _matrix(parameters: list[float], centre: list[float]) -> Array:
    """(4, 4) of ITK's matrix, translation and centre."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(parameters[:9], (3, 3))
    matrix[:3, 3] = np.add(parameters[9:], centre) - matrix[:3, :3] @ centre
    return matrix


if __name__ == "__main__":
    main()

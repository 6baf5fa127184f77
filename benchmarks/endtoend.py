"""One pair from the shell to written files: carl beside ANTs and greedy, in one run.

    python -m benchmarks.endtoend [--fixed F --moving M] [--threads 2] [--only carl greedy]

Each contender is a process of its own that reads two files and writes its transforms and the
warped moving image. Peak: resident memory of the whole process tree. Correlation: of the warped
image with the fixed one where either is not zero, to see that each has done the work. Ratios are
to antsRegistrationSyNQuick[s], or to the first contender where that is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.measure import Cost, process_cost, table

ANTS = """
import sys, ants
fixed, moving, kind, folder = sys.argv[1:]
fixed, moving = ants.image_read(fixed), ants.image_read(moving)
done = ants.registration(fixed, moving, type_of_transform=kind, outprefix=folder + "/")
ants.image_write(done["warpedmovout"], folder + "/warped.nii.gz")
"""
# The affine and deformable stages of greedy's own examples for brains.
GREEDY = """
import sys
from picsl_greedy import Greedy3D
fixed, moving, threads, folder = sys.argv[1:]
run = Greedy3D()
common = f"-threads {threads} -i {fixed} {moving} -m NCC 2x2x2 -n 100x50x10"
run.execute(f"-a {common} -ia-image-centers -dof 12 -o {folder}/affine.mat")
outputs = f"-o {folder}/warp.nii.gz -oinv {folder}/inverse.nii.gz"
run.execute(f"{common} -it {folder}/affine.mat {outputs}")
run.execute(f"-threads {threads} -rf {fixed} -rm {moving} {folder}/warped.nii.gz "
            f"-r {folder}/warp.nii.gz {folder}/affine.mat")
"""
SYN_QUICK = "SyNQuick"


def commands(fixed: str, moving: str, folder: str, threads: int) -> dict[str, list[str]]:
    """Each contender's command, by its name."""
    carl = [sys.executable, "-m", "carl_cli.cli.app", "register", fixed, moving, "-q"]
    carl += ["-o", f"{folder}/T.h5", "-w", f"{folder}/warped.nii.gz", "--threads", str(threads)]
    ants = [sys.executable, "-c", ANTS, fixed, moving]
    greedy = [sys.executable, "-c", GREEDY, fixed, moving, str(threads), folder]
    return {
        SYN_QUICK: [*ants, "antsRegistrationSyNQuick[s]", folder],
        "carl": carl,
        "carl --io": [*carl, "--io"],
        "greedy": greedy,
        "SyN": [*ants, "antsRegistrationSyN[s]", folder],
    }


def main() -> None:
    data = Path(os.environ.get("CARL_TEST_DATA", "../shared/data")) / "brain_t1"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fixed", type=Path, default=data / "image_A.nii.gz")
    parser.add_argument("--moving", type=Path, default=data / "image_B.nii.gz")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=commands("", "", "", 1))
    arguments = parser.parse_args()
    pair = [str(path.resolve(strict=True)) for path in (arguments.fixed, arguments.moving)]
    chosen = arguments.only or list(commands("", "", "", 1))
    done = {name: compete(name, pair, arguments) for name in chosen}
    print(table(f"{' '.join(pair)}, {arguments.threads} threads", COLUMNS, rows(done)))


COLUMNS = ["program", "seconds", "CPU seconds", "peak MiB", "time ratio", "memory ratio"]
COLUMNS.append("correlation")


def compete(
    name: str, pair: Sequence[str], arguments: argparse.Namespace
) -> tuple[list[Cost], float]:
    """The costs of all rounds and the correlation after the last."""
    limits = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"}
    environ = dict.fromkeys(limits, str(arguments.threads))
    costs = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = commands(*pair, folder, arguments.threads)[name]
            costs.append(process_cost(command, environ))
            alike = correlation(Path(pair[0]), Path(folder) / "warped.nii.gz")
    return costs, alike


def correlation(fixed: Path, warped: Path) -> float:
    a, b = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(float) for path in (fixed, warped)
    )
    content = (a != 0) | (b != 0)
    return float(np.corrcoef(a[content], b[content])[0, 1])


def rows(done: dict[str, tuple[list[Cost], float]]) -> list[list[object]]:
    """Medians over the rounds."""
    middle = {
        name: [statistics.median(getattr(c, figure) for c in costs) for figure in FIGURES]
        for name, (costs, _) in done.items()
    }
    base = middle.get(SYN_QUICK, next(iter(middle.values())))
    return [
        [name, *row, row[0] / base[0], row[2] / base[2], done[name][1]]
        for name, row in middle.items()
    ]


FIGURES = ("seconds", "cpu_seconds", "peak_mib")


if __name__ == "__main__":
    main()

"""Dice of whole programs against a shift of the moving image inside its field of view (Fig. 4 of
the paper, with SyN beside carl).

    python -m benchmarks.shifts [--step 25] [--methods before,SyNQuick,carl]

The two brains of `carl demo`, on grids that are 100 mm longer along x; the moving one lies farther
and farther from the middle of its own. `carl evaluate shifts` does the same to networks alone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk

from benchmarks.contest.contenders import contenders
from benchmarks.contest.measures import score
from benchmarks.contest.pairs import SETS, Pair
from benchmarks.measure import table
from carl_cli.weights.locate import locate

FARTHEST_MM = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--step", type=int, default=25, help="mm")
    parser.add_argument("--methods", default="before,SyNQuick,carl")
    parser.add_argument("--weights", default="carl-base")
    parser.add_argument("--folder", type=Path, default=Path("runs/shifts"))
    arguments = parser.parse_args()
    known = contenders(locate(arguments.weights).resolve())
    chosen = {name: known[name] for name in arguments.methods.split(",")}
    (arguments.folder / "people").mkdir(parents=True, exist_ok=True)
    pair = next(SETS["people"].make(Path(), arguments.folder / "people"))
    rows = []
    for shift_mm in range(0, FARTHEST_MM + 1, arguments.step):
        moved = shifted(pair, shift_mm, arguments.folder.resolve() / str(shift_mm))
        found = [score(moved, run(moved, arguments.folder.resolve(), True).transform)
                 for run in chosen.values()]  # fmt: skip
        rows.append((str(shift_mm), *(f"{dice:.3f}" for dice in found)))
        print(*rows[-1], flush=True)
    print(table("mean Dice of 30 structures", ("shift, mm", *chosen), rows))


def shifted(pair: Pair, shift_mm: int, folder: Path) -> Pair:
    """The pair on longer grids, the moving image's content `shift_mm` farther along x."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in ("fixed", "fixed_labels", "moving", "moving_labels"):
        image = sitk.ReadImage(str(getattr(pair, name)))
        longer, voxels = (round(mm / image.GetSpacing()[0]) for mm in (FARTHEST_MM, shift_mm))
        before = voxels if name.startswith("moving") else 0
        padded = sitk.ConstantPad(image, (before, 0, 0), (longer - before, 0, 0), 0)
        padded.SetOrigin(image.GetOrigin())
        files[name] = folder / f"{name}.nii.gz"
        sitk.WriteImage(padded, str(files[name]))
    return replace(pair, name=f"{pair.name}, {shift_mm} mm", **files)


if __name__ == "__main__":
    main()

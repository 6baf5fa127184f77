"""`carl warp` beside antsApplyTransforms (of antspyx) on one large image, in one run.

    python -m benchmarks.warp [--size 512 512 600] [--folder /tmp]

Writes a synthetic int16 image and a field at an eighth of its resolution, lets each program
warp it in a process of its own, and prints seconds, peak memory and the ratios.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.measure import process_cost

OURS = "from carl_cli.cli.app import main; main(sys.argv[1:])"
ANTS = "from ants.internal import get_lib_fn; get_lib_fn('antsApplyTransforms')(sys.argv[1:])"


def write_pair(folder: Path, size_xyz: tuple[int, int, int]) -> tuple[Path, Path]:
    """Blocks of noise, and displacements of about 1 mm."""
    draw = np.random.default_rng(0)
    coarse = tuple(-(-n // 8) for n in size_xyz[::-1])
    blocks = draw.integers(0, 2000, coarse).astype(np.int16)
    blocks = blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(slice(n) for n in size_xyz[::-1])]
    image = sitk.GetImageFromArray(blocks)
    image.SetSpacing((0.8, 0.8, 1.0))
    field = sitk.GetImageFromArray(draw.normal(size=(*coarse, 3)).astype(np.float32), isVector=True)
    field.SetSpacing((6.4, 6.4, 8.0))
    field.SetOrigin((2.8, 2.8, 3.5))
    sitk.WriteImage(image, str(folder / "image.nii"))
    sitk.WriteImage(field, str(folder / "field.nii.gz"))
    return folder / "image.nii", folder / "field.nii.gz"


def measured(code: str, arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak MiB of one process."""
    cost = process_cost([sys.executable, "-c", f"import sys; {code}", *arguments])
    return cost.seconds, cost.peak_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        image, field = map(str, write_pair(folder, tuple(arguments.size)))
        ours = ["warp", image, "-r", image, "-t", field, "-o", str(folder / "ours.nii")]
        ants = ["-d", "3", "-i", image, "-r", image, "-t", field]
        ants += ["-o", str(folder / "ants.nii"), "-u", "short"]
        rows = {"carl warp": measured(OURS, ours), "antsApplyTransforms": measured(ANTS, ants)}
        gap = _largest_gap(folder)
    print(f"{'':<22}{'seconds':>9}{'peak MiB':>10}")
    for name, (seconds, peak) in rows.items():
        print(f"{name:<22}{seconds:>9.1f}{peak:>10.0f}")
    ratios = np.divide(rows["carl warp"], rows["antsApplyTransforms"])
    print(f"{'ratio':<22}{ratios[0]:>9.2f}{ratios[1]:>10.2f}")
    print(f"largest difference inside: {gap} of 2000")


def _largest_gap(folder: Path) -> int:
    """Between the two results, eight voxels inside the border, where the tools' rules differ."""
    a, b = (sitk.ReadImage(str(folder / f"{n}.nii")) for n in ("ours", "ants"))
    inner = (slice(8, -8),) * 3
    views = (sitk.GetArrayViewFromImage(x)[inner].astype(np.int32) for x in (a, b))
    return int(np.abs(next(views) - next(views)).max())


if __name__ == "__main__":
    main()

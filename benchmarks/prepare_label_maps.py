"""Brain label maps → small arrays for training and validation (.npz, SimpleITK needed here
only).

    python benchmarks/prepare_label_maps.py ../shared/data/brain_label_maps runs/data

writes brains-2mm.npz and brains-1.5mm.npz: one (z, y, x) uint8 array per subject, relabelled
densely, in RAI-to-LPS order of the file's axes (all subjects alike), and per label
`values` (the label in the file), `tissue` (left and right share one class), `inner` (brain)
and `t1` (mean of a T1-like rendering, 0 to 1).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

# FreeSurfer numbering: right-hand label → left-hand label of the same structure.
MIRROR = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17}
MIRROR |= {54: 18, 57: 25, 58: 26, 60: 28, 62: 30, 163: 136, 164: 137}

# Means of a T1-weighted image, by structure; what is not named is soft tissue.
T1 = {0: 0.0, 2: 0.80, 3: 0.52, 4: 0.14, 5: 0.16, 7: 0.76, 8: 0.50, 10: 0.64, 11: 0.55}
T1 |= {12: 0.60, 13: 0.70, 14: 0.14, 15: 0.14, 16: 0.72, 17: 0.53, 18: 0.52, 24: 0.10}
T1 |= {25: 0.40, 26: 0.55, 28: 0.70, 30: 0.35, 72: 0.14, 85: 0.66, 136: 0.40, 137: 0.40}
T1 |= {502: 0.05, 506: 0.45, 507: 0.42, 508: 0.40, 509: 0.90, 511: 0.08, 512: 0.12}
T1 |= {514: 0.60, 515: 0.12, 516: 0.95, 530: 0.40}
BRAIN_BELOW = 500
SPACINGS_MM = (2.0, 1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="brain_label_maps with subject*.nii.gz")
    parser.add_argument("out", type=Path, help="folder for the .npz files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    images = {p.name.split(".")[0]: sitk.ReadImage(str(p)) for p in _files(arguments.folder)}
    values = sorted({int(v) for i in images.values() for v in np.unique(_array(i))})
    for spacing_mm in SPACINGS_MM:
        maps = {name: _dense(_shrunk(i, spacing_mm), values) for name, i in images.items()}
        target = arguments.out / f"brains-{spacing_mm:g}mm.npz"
        np.savez_compressed(target, **maps, **_tables(values), spacing_mm=spacing_mm)
        print(target, f"{target.stat().st_size / 1e6:.1f} MB", len(values), "labels")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("subject*.nii.gz"))


def _array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def _shrunk(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Nearest neighbour on a grid that covers the same extent."""
    size = [
        max(1, round(n * s / spacing_mm))
        for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    offset = [(spacing_mm - s) / 2 for s in image.GetSpacing()]
    origin = image.TransformContinuousIndexToPhysicalPoint(
        [o / s for o, s in zip(offset, image.GetSpacing(), strict=True)]
    )
    return sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        origin,
        [spacing_mm] * 3,
        image.GetDirection(),
    )


def _dense(image: sitk.Image, values: list[int]) -> np.ndarray:
    return np.searchsorted(values, _array(image)).astype(np.uint8)


def _tables(values: list[int]) -> dict[str, np.ndarray]:
    left = [MIRROR.get(v, v) for v in values]
    # A left-hand label that no subject has: the right-hand one stands for itself.
    tissue = [values.index(v if v in values else o) for v, o in zip(left, values, strict=True)]
    return {
        "values": np.array(values, np.int64),
        "tissue": np.array(tissue, np.int64),
        "inner": np.array([0 < v < BRAIN_BELOW for v in values]),
        "t1": np.array([T1.get(v, 0.4) for v in left], np.float32),
    }


if __name__ == "__main__":
    main()

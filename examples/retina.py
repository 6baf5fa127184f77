"""Pictures of a retina: each vessel map of a folder, and itself turned, shrunk and shifted.

    python examples/retina.py MAPS     # a folder of pictures, such as DRIVE's `1st_manual`

Prints the Dice overlap of the vessels before and after, with the weights for slices,
which have seen no vessels, and the mean error in pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

import carl_cli as carl

DEGREES, SCALE, SHIFT = 8, 0.87, (-60, 40)  # pixels
MARGIN = 100


def main() -> None:
    print("map | Dice before | after | error before, pixels | after\n---|---|---|---|---")
    for path in sorted(Path(sys.argv[1]).iterdir()):
        figures = registered(255.0 * (np.array(Image.open(path).convert("L")) > 0))
        print(" | ".join([path.name, *(f"{value:.3f}" for value in figures)]), flush=True)


def registered(vessels: np.ndarray) -> tuple[float, float, float, float]:
    """Dice and error in pixels of (y, x) vessels against themselves moved, before and after."""
    fixed = sitk.GetImageFromArray(vessels.astype(np.float32))
    motion = moved_by(fixed)
    canvas = sitk.ConstantPad(fixed, [MARGIN, MARGIN], [MARGIN, MARGIN])  # nothing is cut off
    moving = sitk.Resample(fixed, canvas, motion.GetInverse(), sitk.sitkLinear)
    result = carl.register(fixed, moving)
    points = np.argwhere(vessels > 0)[::50, ::-1].astype(float)
    expected = np.array([motion.TransformPoint(point) for point in points.tolist()])
    both = points, result.forward(points)
    errors = [float(np.linalg.norm(found - expected, axis=1).mean()) for found in both]
    unmoved = sitk.GetArrayFromImage(sitk.Resample(moving, fixed))
    overlaps = [dice(vessels, image) for image in (unmoved, result.warped.array)]
    return overlaps[0], overlaps[1], errors[0], errors[1]


def moved_by(image: sitk.Image) -> sitk.Transform:
    """Fixed → moving points, about the middle of the picture."""
    middle = image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()])
    return sitk.Similarity2DTransform(SCALE, np.deg2rad(DEGREES), SHIFT, middle)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    first, second = a > 127, b > 127
    return float(2 * np.sum(first & second) / (first.sum() + second.sum()))


if __name__ == "__main__":
    main()

"""docs/pictures/demo.png, the wide picture of the README, from what `carl demo` wrote.

carl demo -o demo-output && python docs/generate_picture.py demo-output
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import carl_cli as carl

TARGET = Path(__file__).parent / "pictures" / "demo.png"
OUTLINED = (4, 43, 10, 49, 12, 51, 17, 53, 2, 41)  # FreeSurfer's labels; ventricles first
HIPPOCAMPUS = (17, 53)
FIXED, WARPED = "#4fc3f7", "#ffb300"
NAMES = ("fixed_labels", "moving", "moving_labels", "warped", "warped_labels")
Array = np.ndarray[Any, Any]


def main(folder: Path) -> None:
    """Coronal slices through the hippocampus, all on the fixed grid."""
    fixed = carl.read_image(folder / "fixed.nii.gz")
    read = {name: carl.read_image(folder / f"{name}.nii.gz") for name in NAMES}
    onto = {
        "moving": carl.warp(read["moving"], fixed),
        "moving_labels": carl.warp(read["moving_labels"], fixed, interpolator="genericlabel"),
    }
    images = {**read, **onto, "fixed": fixed}
    hippocampus = np.isin(read["fixed_labels"].array, HIPPOCAMPUS)
    middle = int(np.median(np.nonzero(hippocampus)[0]))
    draw({name: image.array[middle] for name, image in images.items()})


def draw(slices: dict[str, Array]) -> None:
    tiles = (
        ("fixed", "fixed", ()),
        ("moving", "moving", ()),
        ("before: structures of both", "fixed", ("moving_labels",)),
        ("after: structures of both", "fixed", ("warped_labels",)),
        ("moving, warped", "warped", ()),
    )
    figure, axes = plt.subplots(1, len(tiles), figsize=(14, 3.2), facecolor="black")
    for axis, (title, image, labels) in zip(axes, tiles, strict=True):
        axis.imshow(slices[image], cmap="gray", vmin=0, vmax=np.percentile(slices[image], 99.5))
        for name in labels:
            outline(axis, slices["fixed_labels"], FIXED)
            outline(axis, slices[name], WARPED)
        axis.set_title(title, color="white", fontsize=11)
        axis.axis("off")
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.9, wspace=0.02)
    figure.savefig(TARGET, dpi=100, facecolor="black")


def outline(axis: Any, labels: Array, colour: str) -> None:
    for label in OUTLINED:
        if (labels == label).any():
            axis.contour(labels == label, levels=[0.5], colors=colour, linewidths=1.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

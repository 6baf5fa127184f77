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
ORGANS = (5, 6, 7, 8, 9, 10)  # soft organs: bones and lungs show by themselves
FIXED, WARPED = "#4fc3f7", "#ffb300"
Array = np.ndarray[Any, Any]


def main(folder: Path) -> None:
    fixed = carl.read_image(folder / "fixed.nii.gz")
    read = {name: carl.read_image(folder / f"{name}.nii.gz") for name in NAMES}
    onto = {
        name: carl.warp(image, fixed, interpolator=how, background=out)
        for name, image, how, out in (
            ("moving", read["moving"], "linear", -1024),
            ("moving_labels", read["moving_labels"], "genericlabel", 0),
        )
    }
    shown = {**read, **onto, "fixed": fixed}
    middle = int(np.median(np.nonzero(read["fixed_labels"].array == ORGANS[1])[1]))
    slices = {name: image.array[::-1, middle, :] for name, image in shown.items()}
    draw(slices, aspect=fixed.grid.spacing_mm[2] / fixed.grid.spacing_mm[0])


NAMES = ("fixed_labels", "moving", "moving_labels", "warped", "warped_labels")


def draw(slices: dict[str, Array], aspect: float) -> None:
    tiles = (
        ("fixed", "fixed", ()),
        ("moving", "moving", ()),
        ("before: organs of both", "fixed", ("moving_labels",)),
        ("after: organs of both", "fixed", ("warped_labels",)),
        ("moving, warped", "warped", ()),
    )
    figure, axes = plt.subplots(1, len(tiles), figsize=(14, 3.2), facecolor="black")
    for axis, (title, image, labels) in zip(axes, tiles, strict=True):
        axis.imshow(slices[image], cmap="gray", vmin=-250, vmax=350, aspect=aspect)
        for name in labels:
            outline(axis, slices["fixed_labels"], FIXED)
            outline(axis, slices[name], WARPED)
        axis.set_title(title, color="white", fontsize=11)
        axis.axis("off")
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.9, wspace=0.02)
    figure.savefig(TARGET, dpi=100, facecolor="black")


def outline(axis: Any, labels: Array, colour: str) -> None:
    for organ in ORGANS:
        if (labels == organ).any():
            axis.contour(labels == organ, levels=[0.5], colors=colour, linewidths=1.2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

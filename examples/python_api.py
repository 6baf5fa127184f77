"""Register two images from Python; write the transform, the warped image and where a point goes.

python examples/python_api.py fixed.nii.gz moving.nii.gz results/ [WEIGHTS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import carl_cli as carl


def main(fixed: str, moving: str, folder: str, weights: str = "carl-base") -> None:
    result = carl.register(fixed, moving, weights)

    out = Path(folder)
    out.mkdir(exist_ok=True)
    result.save(out / "forward.h5", warped=out / "warped.nii.gz")

    # The transform is a function of points: LPS mm in the fixed image → LPS mm in the moving one.
    centre = result.fixed.grid.centre_mm
    print("centre of the fixed image:", centre.round(2), "mm LPS")
    print("its partner in the moving:", result.forward(centre).round(2), "mm LPS")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Register two images from Python; write the transform, the warped image and where a point goes.

python examples/python_api.py fixed.nii.gz moving.nii.gz results/ [WEIGHTS]
"""

from __future__ import annotations

import sys
from pathlib import Path

from carl_cli.io.images.files import read_image, write_image
from carl_cli.io.resample import resample
from carl_cli.io.transforms.files import write_transform
from carl_cli.registration.register import register
from carl_cli.weights.folder import load_weights
from carl_cli.weights.locate import locate
from carl_cli.weights.registry import DEFAULT


def main(fixed_path: str, moving_path: str, folder: str, weights: str = DEFAULT) -> None:
    fixed, moving = read_image(fixed_path), read_image(moving_path)
    result = register(fixed, moving, load_weights(locate(weights)))

    out = Path(folder)
    out.mkdir(exist_ok=True)
    write_transform(out / "forward.h5", result.forward)
    write_image(out / "warped.nii.gz", resample(moving, fixed.grid, result.forward))

    # The transform is a function of points: LPS mm in the fixed image → LPS mm in the moving one.
    centre = fixed.grid.centre_mm
    print("centre of the fixed image:", centre.round(2), "mm LPS")
    print("its partner in the moving:", result.forward(centre).round(2), "mm LPS")


if __name__ == "__main__":
    main(*sys.argv[1:])

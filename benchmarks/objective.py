"""The authors' objectives on the parity pairs: the numbers of tests/data/parity/objective.json.

    python -m benchmarks.objective FOLDER > tests/data/parity/objective.json

FOLDER holds the unpacked icon_registration 1.1.9. Networks have the weights of
tests/model/reference.py and are in training mode; GradICON's voxels are moved by the noise that
Chance(0) draws.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.reference import their_maps, their_objectives, theirs
from carl_cli.training.synthesis.chance import Chance
from tests.model.reference import reference_outputs

STORED = Path(__file__).parents[1] / "tests" / "data" / "parity"
NETWORKS = {"carl3d": (False, 2), "carl3d_extra_step": (True, 4)}  # extra step, stored every n-th


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(json.dumps({name: objectives(folder, name) for name in NETWORKS}, indent=1))


def objectives(folder: Path, name: str) -> dict[str, Any]:
    extra_step, every = NETWORKS[name]
    stored = reference_outputs(name, STORED)
    fixed, moving = (stored[image].squeeze()[None, None] for image in ("fixed", "moving"))
    shape = fixed.shape[2:]
    whole = theirs(folder, shape, "cpu", extra_step)
    with torch.no_grad():  # in eval mode, as the stored map
        ahead = their_maps(whole, fixed, moving)[0][0, :, ::every, ::every, ::every]
    torch.testing.assert_close(ahead, stored["phi_AB"].squeeze(), atol=1e-5, rtol=0)
    noise = torch.randn(1, 3, *shape, generator=Chance(0).host_generator)
    return their_objectives(whole, fixed, moving, noise)


if __name__ == "__main__":
    main()

"""State dicts of the authors' other builders of CARL: imported, and equal to their own code.

tests/model/reference_outputs holds, for each of them, the names and shapes of its state dict, two
images and its maps at every fourth voxel (2D: every second one), as icon_registration 1.1.9 gives
them with weights drawn by the rule of tests/model/reference.py. The rotation network's state dict
is that of training: random turns, which have no weights, stand around it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from carl_cli.weights.checkpoints import import_checkpoint
from carl_cli.weights.folder import load_weights
from tests.model.reference import drawn_weight

STORED = Path(__file__).parents[1] / "model" / "reference_outputs"


@pytest.mark.parametrize(
    ("name", "gradicon_stride"),
    [
        ("carl_final2d", 1),
        ("carl_final3d", 1),  # with the U-Net of the second stage
        ("carl_smolatt3d", 2),
        # With the U-Net of the second stage.
        pytest.param("carl_rotation3d", 2, marks=pytest.mark.slow),
    ],
)
def test_imported_and_equal_to_the_authors_code(
    name: str, gradicon_stride: int, tmp_path: Path
) -> None:
    with np.load(STORED / f"{name}.npz") as arrays:
        stored = {key: arrays[key] for key in arrays.files}
    shapes = [[int(n) for n in row if n] for row in stored["shapes"]]
    state = {k: drawn_weight(str(k), s) for k, s in zip(stored["keys"], shapes, strict=True)}
    torch.save({str(k): v for k, v in state.items()}, tmp_path / "own.trch")
    fixed, moving = (
        torch.from_numpy(stored[key].astype(np.float32) / 256)[None, None]
        for key in ("fixed", "moving")
    )
    shape = fixed.shape[2:]
    import_checkpoint(tmp_path / "own.trch", "carl", tmp_path / "own", tuple(shape))
    weights = load_weights(tmp_path / "own")
    with torch.inference_mode():
        ahead, back = weights.network.both_directions(fixed, moving)
    step = 4 if len(shape) == 3 else 2
    kept = (0, slice(None), *[slice(None, None, step)] * len(shape))
    for phi, key in ((ahead, "phi_AB"), (back, "phi_BA")):
        gap = np.abs(phi.on_grid(shape)[kept].numpy() - stored[key]).max()
        assert gap < 1e-4, f"{key} differs by {gap:.1e}"
    fit = weights.config.instance
    assert (fit.sigma, fit.gradicon_stride, fit.scope) == (4, gradicon_stride, "all")

"""A study of a few tiny pairs, weights with random numbers, and the command run on them."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from carl_cli.io.images.files import Image, write_image
from tests.cli.conftest import Carl, Outcome, carl  # noqa: F401 (a fixture)
from tests.cli.weights_folder import untrained_weights
from tests.conftest import make_grid, smooth_value


@dataclass(frozen=True)
class Study:
    """Images a.nii.gz … d.nii.gz in a folder, and the command with the study's weights."""

    folder: Path
    weights: Path
    carl: Carl

    def table(self, *lines: str, name: str = "pairs.csv") -> Path:
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def pairs(self, count: int = 3) -> Path:
        """Up to 12 cases: ab, bc, cd, da of neighbours in the alphabet, then ac, bd, …"""
        names = [("abcd"[k % 4], "abcd"[(k + 1 + k // 4) % 4]) for k in range(count)]
        return self.table("id,fixed,moving", *(f"{a}{b},{a}.nii.gz,{b}.nii.gz" for a, b in names))

    def batch(self, table: Path, out_dir: Path, *options: object) -> Outcome:
        common: tuple[object, ...] = ("--device", "cpu", "--threads", 1)
        if "--weights" not in options:
            common = ("--weights", self.weights, *common)
        return self.carl("batch", table, "-o", out_dir, *common, *options)


@pytest.fixture(scope="session")
def batch_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_weights(tmp_path_factory.mktemp("batch") / "weights")


@pytest.fixture
def study(tmp_path: Path, batch_weights: Path, carl: Carl) -> Study:  # noqa: F811
    folder = tmp_path / "study"
    folder.mkdir()
    for k, name in enumerate("abcd"):
        grid = make_grid((16, 15 + k, 14), (4.0, 4.0, 4.0 + k / 2), (float(k), 0.0, -float(k)))
        values = smooth_value(grid.points_mm()).astype(np.float32)
        write_image(folder / f"{name}.nii.gz", Image(values, grid))
    return Study(folder, batch_weights, carl)


def rows(path: Path) -> dict[str, dict[str, str]]:
    """Id → row of a status or summary table."""
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def states(path: Path) -> dict[str, str]:
    return {name: row["state"] for name, row in rows(path).items()}


def digests(out_dir: Path, *patterns: str) -> dict[str, str]:
    """Relative path → SHA-256 of the files that match."""
    found = [path for pattern in patterns for path in sorted(out_dir.glob(pattern))]
    return {
        path.relative_to(out_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }

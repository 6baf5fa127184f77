"""A damaged file given to carl, and what to think of the way it ended."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.faults import referees, samples
from tests.faults.dialects import DIALECTS
from tests.faults.mutation import damaged
from tests.faults.runner import Ended

GOOD = ("refused", "right")
BAD = (
    "traceback",
    "crash",
    "hang",
    "memory",
    "garbage",
    "wrong code",
    "mute",
    "left over",
    "input",
)
"""right: exit 0, and another reader says the same. refused: code 3 or 4, with words and a hint.
hang: ten seconds of work, or of sleep. mute: no error line, or one that does not name the file.
left over: something half written."""
MOST_GROWN = 2**30
PLACE_TOLERANCE = 0.05  # voxels, as carl allows two forms of one header to differ

Run = Callable[[list[object], Path], Ended]
KINDS = {
    **samples.IMAGES, **samples.TRANSFORMS, **samples.POINT_FILES, **samples.WEIGHTS,
    **{kind: dialect.make for kind, dialect in DIALECTS.items()},
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    outcome: str
    change: str
    why: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in GOOD


class Bench:
    """A sound sample in a folder of its own, to be damaged again and again."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        folder.mkdir(parents=True)
        self.out = folder / "out"
        self.sample = KINDS[kind](folder)
        self.sound = self.sample.target.read_bytes()
        self.still = folder / "still.tfm"
        if kind in samples.POINT_FILES:
            sitk.WriteTransform(sitk.AffineTransform(3), str(self.still))

    def judge(self, seed: int | str, run: Run) -> Verdict:
        content, change = damaged(self.sound, f"{self.kind} {seed}", self.sample.text)
        return self.judge_bytes(content, change, run)

    def judge_bytes(self, content: bytes, change: str, run: Run) -> Verdict:
        """Put these bytes in place of the target's; the sound ones return afterwards."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        self.sample.target.write_bytes(content)
        before = fingerprint(self.folder)
        try:
            ended = run(self.command(), self.folder)
            outcome, why = self._outcome(ended, before)
        finally:
            self.sample.target.write_bytes(self.sound)
        return Verdict(outcome, change, why)

    def command(self) -> list[object]:
        path = self.sample.path
        if self.kind in DIALECTS:
            return DIALECTS[self.kind].command(path, self.out)
        if self.kind in samples.IMAGES:
            # Strictly: what no orthogonal grid holds is refused, since no referee resamples it.
            command = ["warp", path, "-r", path, "-n", "nearest", "--strict"]
            return [*command, "-o", self.out / "out.nrrd"]
        if self.kind.startswith("field"):
            return ["convert", path, "-o", self.out / "out.nrrd"]
        if self.kind in samples.TRANSFORMS:
            linear = "affine" in self.kind
            name = "out.tfm" if linear else "out.h5"
            return ["convert", path, "-o", self.out / name, "--precision", "double"]
        if self.kind in samples.POINT_FILES:
            chain = ["-t", self.still, "--from", "fixed", "-o", self.out / "out.csv"]
            return ["points", path, *chain]
        return ["weights", "verify", path]

    def _outcome(self, ended: Ended, before: dict[str, str]) -> tuple[str, str]:
        told = f"{ended.code} {ended.err.strip()[-300:]}"
        if ended.late:
            return "hang", told
        if "Traceback" in ended.err or "Traceback" in ended.out:
            return "traceback", told
        if ended.code < 0 or ended.code > 128:
            return "crash", told
        if ended.code == 5 or ended.grown_bytes > MOST_GROWN:
            return "memory", f"{told} grown {ended.grown_bytes / 2**20:.0f} MiB"
        left = sorted(str(p) for p in self.folder.rglob(".*"))
        written = sorted(p.name for p in self.out.iterdir())
        if left or (ended.code != 0 and written):
            return "left over", f"{told} {left} {written}"
        if {k: v for k, v in fingerprint(self.folder).items() if "/out/" not in k} != before:
            return "input", told
        if ended.code == 0:
            why = self._garbage(ended)
            return ("garbage", why) if why else ("right", "")
        return self._refusal(ended, told)

    def _refusal(self, ended: Ended, told: str) -> tuple[str, str]:
        allowed = (4,) if self.kind in samples.WEIGHTS else (3,)
        allowed = DIALECTS[self.kind].codes if self.kind in DIALECTS else allowed
        if ended.code not in allowed:
            return "wrong code", told
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        hints = [line for line in ended.err.splitlines() if line.startswith("hint: ")]
        named = (self.sample.path.name, self.sample.target.name)
        by_line = self.kind in DIALECTS and DIALECTS[self.kind].table
        if by_line and errors and hints:
            return "refused", ""
        if len(errors) != 1 or len(hints) != 1 or not any(n in errors[0] for n in named):
            return "mute", told
        return "refused", ""

    def _garbage(self, ended: Ended) -> str:
        """Why the result is not what the file says; "" when it is."""
        try:
            if self.kind in DIALECTS:
                return self._told_by_referee()
            if self.kind in samples.IMAGES or self.kind.startswith("field"):
                return self._other_picture()
            if self.kind in samples.TRANSFORMS:
                return self._other_numbers()
            if self.kind in samples.POINT_FILES:
                return self._other_points()
        except Exception as error:  # a referee that refuses what carl took
            return f"the referee: {type(error).__name__}: {error}"[:300]
        return ""

    def _told_by_referee(self) -> str:
        referee = DIALECTS[self.kind].referee
        if referee is not None:
            with suppress(referees.Unknown):
                referee(self.sample.path, self.out)
        return ""

    def _other_picture(self) -> str:
        expected = referees.picture_of(self.kind, self.sample.path)
        array = expected.array
        if array.dtype.kind == "f":  # ITK's resampler has no infinite numbers
            most = np.finfo(array.dtype).max
            array = np.clip(array, -most, most)
        written = referees.by_simpleitk(self.out / "out.nrrd")
        if written.array.shape != array.shape:
            return f"shape {written.array.shape}, {array.shape} expected"
        if not np.allclose(written.array, array, rtol=1e-6, atol=0, equal_nan=True):
            return "other voxels"
        size = np.array(written.array.shape[: len(written.places[0]) - 1])[::-1]
        gaps = [place_gap(place, written.places[0], size) for place in expected.places]
        if gaps and min(gaps) > PLACE_TOLERANCE:
            return f"another place, by {min(gaps):.3g} voxels"
        return ""

    def _other_numbers(self) -> str:
        reader = referees.TRANSFORM_READERS[self.kind.split()[0]]
        expected = reader(self.sample.path)
        linear = "affine" in self.kind
        written = (referees.numbers_of_text if linear else referees.numbers_of_h5)(
            self.out / ("out.tfm" if linear else "out.h5")
        )
        same = len(expected) == len(written) and all(
            np.shape(a.ravel()) == np.shape(b.ravel())
            and np.allclose(a.ravel(), b.ravel(), rtol=1e-5, atol=1e-9)
            for a, b in zip(expected, written, strict=True)
        )
        return "" if same else "other numbers"

    def _other_points(self) -> str:
        expected = referees.points_of(self.sample.path)
        written = referees.points_of(self.out / "out.csv")
        if expected.shape != written.shape:
            return f"{len(written)} points, {len(expected)} expected"
        same = np.allclose(expected, written, rtol=1e-8, atol=1e-6)
        return "" if same else "other points"


def place_gap(first: np.ndarray, second: np.ndarray, size_xyz: np.ndarray) -> float:
    """Largest distance between two placements of the corner voxels, in voxels."""
    corners = np.array(np.meshgrid(*[[0, n - 1] for n in size_xyz])).reshape(len(size_xyz), -1)
    moved = (first - second) @ np.vstack([corners, np.ones(corners.shape[1])])
    voxel = np.linalg.norm(second[:-1, :-1], axis=0).min()
    return float(np.linalg.norm(moved[:-1], axis=0).max() / voxel)


def fingerprint(folder: Path) -> dict[str, str]:
    """Path → hash of every file below a folder."""
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }

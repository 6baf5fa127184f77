"""Damaged files by the hundred, or by the thousand with `-m slow`: each is refused in words, or
read as another reader reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.dialects import DIALECTS
from tests.faults.fuzz import REGRESSIONS
from tests.faults.judge import KINDS, Bench
from tests.faults.runner import Ended, Server, process

FEW = 3
MANY = 80
AS_PROCESSES = 2
TABLES = [kind for kind, dialect in DIALECTS.items() if dialect.table]
KEPT = sorted(REGRESSIONS.glob("*__*"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def bad_ones(bench: Bench, seeds: range, run) -> list[str]:  # type: ignore[no-untyped-def]
    verdicts = {seed: bench.judge(seed, run) for seed in seeds}
    return [
        f"seed {seed}, {v.change}: {v.outcome}: {v.why}"
        for seed, v in verdicts.items()
        if not v.good
    ]


@pytest.mark.parametrize("kind", ["nifti gz", "mha raw", "dicom zip", "h5 composite", "mat affine"])
def test_a_few_damaged_files(server: Server, tmp_path: Path, kind: str) -> None:
    assert bad_ones(Bench(kind, tmp_path / "bench"), range(FEW), server.run) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(server: Server, heavy: Server, tmp_path: Path, kind: str) -> None:
    run = (heavy if kind in TABLES else server).run
    assert bad_ones(Bench(kind, tmp_path / "bench"), range(MANY), run) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_some_of_them_with_a_process_of_their_own(tmp_path: Path, kind: str) -> None:
    def run(args: list[object], folder: Path) -> Ended:
        return process(args, folder)

    assert bad_ones(Bench(kind, tmp_path / "bench"), range(AS_PROCESSES), run) == []


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_what_once_went_wrong(server: Server, heavy: Server, tmp_path: Path, kept: Path) -> None:
    bench = Bench(kept.name.split("__")[0].replace("_", " "), tmp_path / "bench")
    run = (heavy if bench.kind in TABLES else server).run
    verdict = bench.judge_bytes(kept.read_bytes(), "kept", run)
    assert verdict.good, verdict


def test_the_judge_can_condemn(tmp_path: Path) -> None:
    """Each bad end that can be made is told from the good ones."""
    bench = Bench("nifti", tmp_path / "bench")
    named = f"error: {bench.sample.path}: bad\nhint: mend it"

    def ending(code: int, err: str = named, late: bool = False, grown: int = 0):  # type: ignore[no-untyped-def]
        return lambda *_: Ended(code, late, "", err, grown)

    def leaving(*_: object) -> Ended:
        (bench.out / ".abc.partial.nrrd").write_bytes(b"half")
        return Ended(3, False, "", named)

    def spoiling(*_: object) -> Ended:
        bench.sample.target.write_bytes(b"gone")
        return Ended(3, False, "", named)

    ends = {
        "refused": ending(3),
        "wrong code": ending(1),
        "crash": ending(-11),
        "hang": ending(-9, late=True),
        "memory": ending(3, grown=2**31),
        "mute": ending(3, "error: something\nhint: mend it"),
        "traceback": ending(1, "Traceback (most recent call last):"),
        "garbage": ending(0),
        "left over": leaving,
        "input": spoiling,
    }
    found = {
        name: bench.judge_bytes(bench.sound, "none", run).outcome for name, run in ends.items()
    }
    assert found == {name: name for name in ends}


def test_the_judge_compares_voxels(server: Server, tmp_path: Path) -> None:
    """Sound files are right; with another image's voxels written they are not."""
    for kind in ("nifti gz", "nrrd raw", "mha zlib", "dicom series", "h5 double", "points csv"):
        bench = Bench(kind, tmp_path / kind.replace(" ", "_"))
        assert bench.judge_bytes(bench.sound, "none", server.run).outcome == "right", kind
    bench = Bench("mha raw", tmp_path / "other")

    def other(args: list[object], folder: Path) -> Ended:
        content = bytearray(bench.sound)
        content[-1] ^= 1
        bench.sample.target.write_bytes(content)
        ended = server.run(args, folder)
        bench.sample.target.write_bytes(bench.sound)
        return ended

    assert bench.judge_bytes(bench.sound, "none", other).outcome == "garbage"

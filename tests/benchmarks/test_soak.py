"""The soak's judgement: what grows is told, what is flat is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import Moment, a_case, faults, fifths, per_thousand, slower


def flat(seconds: float = 2.0, **changed: int) -> list[Moment]:
    """One moment a case; the changed figures grow to that from case 60 on, which take so many
    seconds each where the others take 2."""
    usual = Moment(0, 4, 1000, 33, 0, 0.0, 0.0, 0, 0)
    grown = usual._replace(**changed)
    return [
        (grown if done > 60 else usual)._replace(
            done=done,
            processor_s=2 * done + (seconds - 2) * max(0, done - 60),
            status_bytes=90 * done,
        )
        for done in range(1, 101)
    ]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Outputs of 100 cases, and an empty folder of temporary files."""
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    for case in range(100):
        (out / str(case)).mkdir(parents=True)
        (out / str(case) / f"{case}_xfm.h5").touch()
    return out, temporary


def test_fifths_leave_out_what_begins_and_ends() -> None:
    ending = [Moment(100, 2, 600, 20, 0, 0.0, 0.0, 0, 0)] * 50
    parts = fifths(flat() + ending)
    assert [part.done for part in parts] == [10, 30, 50, 70, 90]
    assert {part.memory_mib for part in parts} == {1000}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"memory_mib": 1049}, []),
        ({"memory_mib": 1060}, ["memory: 1000 MiB became 1060"]),
        ({"open_files": 34}, ["open files: 33 became 34"]),
    ],
)
def test_growth_is_told(
    folders: tuple[Path, Path], changed: dict[str, int], words: list[str]
) -> None:
    assert faults(fifths(flat(**changed)), *folders, done=100) == words


def test_what_is_left_or_missing_is_told(folders: tuple[Path, Path]) -> None:
    out, temporary = folders
    (temporary / "carl-x").touch()
    (out / "1" / ".ab.partial.h5").touch()
    told = ["left in the temporary folder: carl-x", "100 transforms of 101 cases",
            "half-written files"]  # fmt: skip
    assert faults(fifths(flat()), out, temporary, done=101) == told


def test_growth_with_a_thousand_cases() -> None:
    """Of a straight line it is its slope; a case's share is told by fifths."""
    seen = flat(2.6)
    assert per_thousand(seen, "status_bytes") == pytest.approx(90_000)
    assert per_thousand(seen, "memory_mib") == 0
    assert a_case(seen, "processor_s") == pytest.approx([2, 2, 2, 2.6, 2.6])
    assert slower(seen) == ["a case took 2.000 s of the processor, then 2.600"]
    assert slower(flat(2.4)) == []

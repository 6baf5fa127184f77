"""`carl --help` and the light commands load no heavy library, and are quick."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.cli.commands import COMMANDS

HEAVY = {"torch", "SimpleITK", "itk", "huggingface_hub", "matplotlib", "scipy"}
NO_TORCH = (
    "warp",
    "points",
    "jacobian",
    "compose",
    "average",
    "invert",
    "convert",
    "info",
    "weights",
)
SCORES = "import carl_cli.evaluation.scores, carl_cli.evaluation.tables"
LIMIT_MODULES = 500


def modules_after(script: str) -> set[str]:
    """Names of all modules that are loaded once the script has run in a new interpreter."""
    tail = "\nimport sys; print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script + tail], capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines())


def run_and_return(*args: str) -> str:
    return (
        "from carl_cli.cli.app import main\n"
        f"try: main({list(args)!r})\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code"
    )


def test_top_level_help_loads_nothing_heavy() -> None:
    modules = modules_after(run_and_return("--help"))
    assert not modules & (HEAVY | {"numpy", "pydantic"})
    assert len(modules) < LIMIT_MODULES


def test_the_proof_can_fail() -> None:
    modules = modules_after(run_and_return("--help") + "\nimport numpy, matplotlib.pyplot")
    assert modules & HEAVY
    assert len(modules) > LIMIT_MODULES


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "train"])
def test_help_of_each_command_loads_nothing_heavy(name: str) -> None:
    assert not modules_after(run_and_return(*name.split(), "--help")) & HEAVY


@pytest.mark.parametrize("name", [n for n in NO_TORCH if n in COMMANDS])
def test_transform_commands_never_load_torch(name: str) -> None:
    """Their module and every library room they name: what a run of them could import."""
    entry = COMMANDS[name]
    assert "torch" not in modules_after(f"import {entry.module}")


def test_transform_commands_run_to_their_end_without_torch(tmp_path: Path) -> None:
    """On real files, one command after the other in one process; outputs as they should be."""
    image, transform, points = (str(tmp_path / name) for name in ("a.nii", "T.txt", "p.csv"))
    values = np.arange(8**3, dtype=np.float32).reshape(8, 8, 8)
    sitk.WriteImage(sitk.GetImageFromArray(values), image)
    shift = sitk.AffineTransform(3)
    shift.SetTranslation((1, 0, 0))
    sitk.WriteTransform(shift, transform)
    Path(points).write_text("x,y,z\n1,2,3\n")
    warped, moved, field, back, mean = (
        str(tmp_path / name) for name in ("w.nii", "q.csv", "j.nii", "back.txt", "mean.txt")
    )
    lines = [
        ["warp", image, "-r", image, "-t", transform, "-o", warped],
        ["points", points, "-t", transform, "--from", "fixed", "-o", moved],
        ["jacobian", transform, "-r", image, "-o", field],
        ["invert", transform, "-o", back],
        ["average", transform, transform, "-o", mean],
        ["info", image],
        ["weights", "list"],
    ]
    loaded = modules_after("\n".join(run_and_return(*line) for line in lines))
    assert "SimpleITK" in loaded
    assert not loaded & {"torch", "matplotlib", "scipy"}
    found = sitk.GetArrayFromImage(sitk.ReadImage(warped))
    np.testing.assert_array_equal(found[..., :-1], values[..., 1:])
    assert Path(moved).read_text().split()[1].startswith("2")
    assert sitk.GetArrayFromImage(sitk.ReadImage(field)) == pytest.approx(1)
    assert sitk.ReadTransform(back).TransformPoint((1.0, 2.0, 3.0)) == (0.0, 2.0, 3.0)


def test_scores_of_files_need_no_torch() -> None:
    assert not modules_after(SCORES) & {"torch", "matplotlib", "scipy"}


def test_help_answers_in_under_400_ms() -> None:
    """Processor time, best of three: what else the machine does only adds to it."""

    def seconds() -> float:
        command = [sys.executable, "-m", "carl_cli.cli.app", "--help"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4


def test_all_commands_are_listed(carl) -> None:  # type: ignore[no-untyped-def]
    outcome = carl("--help")
    assert outcome.code == 0
    lines = [line[2:] for line in outcome.out.splitlines() if line.startswith("│ ")]
    listed = {line.split("  ")[0] for line in lines}
    assert set(COMMANDS) <= listed
    assert "cite" in listed


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["info", "absent.nii"], 3)])
def test_python_m_is_the_command(words: list[str], code: int) -> None:
    """The same words and the same exit code, errors in one line included."""
    ways = (["-m", "carl_cli"], ["-c", "from carl_cli.cli.entry import main; main()"])
    found = [
        subprocess.run([sys.executable, *way, *words], capture_output=True, text=True)
        for way in ways
    ]
    outcomes = [(done.returncode, done.stdout, done.stderr) for done in found]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == code

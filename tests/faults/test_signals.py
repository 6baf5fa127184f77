"""Runs that are interrupted, ended or killed at random moments of every stage, or that get no
memory: the exit code, no half-written output, inputs as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.faults.judge import fingerprint
from tests.faults.runner import Server, environment, installed

SECONDS = 300.0
STAGES = ("resampling", "reading", "preprocessing", "network", "transform", "scoring", "writing",
          "pictures")  # fmt: skip
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
OUTPUTS = {
    "-o": "t.h5", "-O": "i.nii.gz", "-w": "w.nii.gz", "-W": "v.mha", "--jacobian": "j.nrrd",
    "--figure": "f.png", "--report": "p.html", "--json": "r.json",
}  # fmt: skip
TIMED = ("p.html", "r.json")
"""They tell times, so that two runs write different bytes."""


def call(pair: tuple[Path, Path], weights: Path, out: Path) -> list[object]:
    wanted = [word for option, name in OUTPUTS.items() for word in (option, out / name)]
    return ["register", *pair, "--weights", weights, "--threads", 1, *wanted]


@pytest.fixture(scope="module")
def whole(
    heavy: Server,
    weights: Path,
    sound_pair: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole")
    ended = heavy.run(call(sound_pair, weights, out), out, SECONDS)
    assert ended.code == 0, ended.err
    assert [line for line in ended.err.splitlines() if line in STAGES] == list(STAGES[1:])
    return {path.name: path.read_bytes() for path in out.iterdir()}


def check_left(out: Path, whole: dict[str, bytes], killed: bool) -> None:
    """Outputs that exist are whole; only SIGKILL may leave a hidden temporary file."""
    for path in out.iterdir():
        if path.name.startswith("."):
            assert killed, path
            assert ".partial" in path.name
        elif path.name in TIMED:
            end = {"p.html": b"</html>", "r.json": b"}"}[path.name]
            assert path.read_bytes().rstrip().endswith(end)
        else:
            assert path.read_bytes() == whole[path.name]


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(len(STAGES)), ids=STAGES)
@pytest.mark.parametrize("number", CODES, ids=lambda n: n.name)
def test_a_signal_in_each_stage(
    heavy: Server,
    weights: Path,
    sound_pair: tuple[Path, Path],
    whole: dict[str, bytes],
    tmp_path: Path,
    number: signal.Signals,
    stage: int,
) -> None:
    before = fingerprint(sound_pair[0].parent)
    seconds = Random(f"{number} {stage}").random() * 0.2
    blow = (int(number), stage + 1, seconds)
    ended = heavy.run(call(sound_pair, weights, tmp_path), tmp_path, SECONDS, None, blow)
    assert not ended.late
    assert "Traceback" not in ended.err
    assert ended.code == (CODES[number] if ended.struck else 0), ended.err
    if ended.struck and number != signal.SIGKILL:
        assert ended.err.strip().splitlines()[-1].startswith("error: ")
    check_left(tmp_path, whole, number == signal.SIGKILL)
    assert fingerprint(sound_pair[0].parent) == before


def test_an_ended_run_says_so(
    heavy: Server, weights: Path, sound_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """The quick form: SIGTERM as the network begins."""
    blow = (int(signal.SIGTERM), STAGES.index("network") + 1, 0.0)
    ended = heavy.run(call(sound_pair, weights, tmp_path), tmp_path, SECONDS, None, blow)
    assert ended.struck
    assert ended.code == 143
    assert ended.err.strip().splitlines()[-1] == "error: ended by SIGTERM"
    assert list(tmp_path.iterdir()) == []


def _in_the_foreground() -> None:
    """nohup ignores SIGHUP for all that it starts, and a shell SIGINT for what is behind it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda n: n.name)
def test_processes_of_their_own_at_any_moment(
    weights: Path,
    sound_pair: tuple[Path, Path],
    whole: dict[str, bytes],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """From the first line of the log to the end, at three random moments."""
    random = Random(f"processes {number}")
    for turn in range(3):
        out = tmp_path / str(turn)
        out.mkdir()
        words = [*installed(), *map(str, call(sound_pair, weights, out))]
        with subprocess.Popen(
            words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, preexec_fn=_in_the_foreground,
        ) as running:  # fmt: skip
            assert running.stderr is not None
            first = running.stderr.readline()
            time.sleep(random.random() * 8)
            struck = running.poll() is None
            running.send_signal(number)
            rest = running.communicate()[1]
        assert "Traceback" not in first + rest
        assert running.returncode == (CODES[number] if struck else 0) or not rest.endswith("\n")
        check_left(out, whole, number == signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("spare", [2**26, 2**28])
def test_no_memory_left(heavy: Server, weights: Path, tmp_path: Path, spare: int) -> None:
    """RLIMIT_AS: an image of 160 MB with some megabytes to spare."""
    image = big_image(tmp_path)
    before = fingerprint(tmp_path)
    out = tmp_path / "w.nii"
    ended = heavy.run(["warp", image, "-n", "bspline", "-o", out], tmp_path, SECONDS, spare)
    assert ended.code == 5, ended.err
    error, hint = ended.err.strip().splitlines()[-2:]
    assert error == "error: out of memory"
    assert hint.startswith("hint: ")
    register = ["register", image, image, "--weights", weights, "-o", tmp_path / "t.h5"]
    ended = heavy.run(register, tmp_path, SECONDS, spare)
    assert ended.code == 5, ended.err
    assert fingerprint(tmp_path) == before


def big_image(folder: Path) -> Path:
    """430³ bytes of zeros but one, packed into some kilobytes."""
    import numpy as np

    from carl_cli.geometry import Grid
    from carl_cli.io.images.files import Image, write_image

    array = np.zeros((430, 430, 430), np.int16)
    array[200:230, 200:230, 200:230] = 100
    grid = Grid((430,) * 3, (1.0,) * 3, (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    path = folder / "big.nii.gz"
    write_image(path, Image(array, grid))
    return path


MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def narrow(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A memory cgroup of 400 MiB without swap, of version 1 or 2; its list of processes."""
    limits = {
        "memory.max": "memory.swap.max",
        "memory.limit_in_bytes": "memory.memsw.limit_in_bytes",
    }
    for root in (MEMORY_CGROUP, Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        group = root / f"carl-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        name = next((n for n in limits if (group / n).exists()), None)
        if name is None:
            group.rmdir()
            continue
        (group / name).write_text(str(400 * 2**20))
        if (group / limits[name]).exists():
            (group / limits[name]).write_text(str(400 * 2**20) if "limit" in name else "0")
        yield group / "cgroup.procs"
        group.rmdir()
        return
    pytest.skip("no memory cgroup can be made here")


@pytest.mark.slow
def test_killed_for_want_of_memory(narrow: Path, tmp_path: Path) -> None:
    """The kernel gives no warning: nothing stands at the output's name, inputs are untouched."""
    image = big_image(tmp_path)
    before = fingerprint(tmp_path)
    code = (
        "import os, sys; open(sys.argv.pop(1), 'w').write(str(os.getpid()));"
        "from carl_cli.cli.app import main; main(sys.argv[1:])"
    )
    words = ["warp", image, "-n", "bspline", "-o", tmp_path / "w.nii"]
    done = subprocess.run(
        [sys.executable, "-c", code, narrow, *map(str, words)], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (-signal.SIGKILL, 5), done.stderr
    assert "Traceback" not in done.stderr
    assert {k: v for k, v in fingerprint(tmp_path).items() if ".partial" not in k} == before

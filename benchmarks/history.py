"""How fast carl is beside fixed yardsticks, one row a measurement in benchmarks/history.csv.

    python -m benchmarks.history [--rounds 5] [--dry-run]

Only ratios are kept: processor seconds of carl over those of the yardstick, taken in turns on the
same machine in the same minutes, each the median of the rounds. A ratio that grows from one release
to the next is a slowdown; ratios of two machines are alike, but not the same.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time

import torch

from benchmarks.attention import ours, sdpa
from benchmarks.measure import process_cost
from benchmarks.warp import ANTS, OURS, write_pair

HISTORY = Path(__file__).with_name("history.csv")
COLUMNS = ("date", "commit", "what", "yardstick", "ratio")
HELP = "from carl_cli.cli.app import main\ntry: main(['--help'])\nexcept SystemExit: pass"
SIDE = 48  # of the grids of the network and of attention's keys
Call = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry-run", action="store_true", help="print, don't write")
    wanted = parser.parse_args()
    date, commit = datetime.date.today().isoformat(), _commit()
    rows = [
        (date, commit, what, yardstick, f"{ratio(*calls, wanted.rounds):.3g}")
        for what, yardstick, *calls in contests()
    ]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    if not wanted.dry_run:
        with HISTORY.open("a", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)


def ratio(ours: Call, theirs: Call, rounds: int) -> float:
    """Medians of calls in turns, after one each that does not count."""
    pairs = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    a, b = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    return a / b


def contests() -> Iterator[tuple[str, str, Call, Call]]:
    yield "carl --help", "python -c 'import numpy'", _process(HELP), _process("import numpy")
    shape = (SIDE // 2,) * 3
    queries, keys = (torch.nn.functional.normalize(torch.randn(1, n, 32), dim=-1)
                     for n in (2048, (SIDE // 2) ** 3))  # fmt: skip
    yield (
        "attention, 2048 queries by 24³ keys",
        "torch's own kernel, padded",
        _inside(lambda: ours(queries, keys, shape)),
        _inside(lambda: sdpa(queries, keys, shape)),
    )
    yield f"carl-base, forward on {SIDE}³", "a convolution 32 to 32 on 96³", *_forward()
    with tempfile.TemporaryDirectory() as name:
        yield "carl warp, 200³", "antsApplyTransforms", *_warp(Path(name))


def _forward() -> tuple[Call, Call]:
    from carl_cli.weights.folder import load_weights
    from carl_cli.weights.locate import locate

    network = load_weights(locate("carl-base")).network
    fixed, moving = torch.rand(2, 1, 1, SIDE, SIDE, SIDE)
    layer = torch.nn.Conv3d(32, 32, 3, padding=1)
    features = torch.rand(1, 32, 96, 96, 96)
    return _inside(lambda: network(fixed, moving)), _inside(lambda: layer(features))


def _warp(folder: Path) -> tuple[Call, Call]:
    image, field = map(str, write_pair(folder, (200, 200, 200)))
    common = ["-i", image, "-r", image, "-t", field, "-u", "short"]
    ours = ["warp", image, "-r", image, "-t", field, "-o", f"{folder}/ours.nii", "--overwrite"]
    theirs = ["-d", "3", *common, "-o", f"{folder}/ants.nii"]
    return _process(f"import sys; {OURS}", *ours), _process(f"import sys; {ANTS}", *theirs)


def _process(code: str, *arguments: str) -> Call:
    return lambda: process_cost([sys.executable, "-c", code, *arguments]).cpu_seconds


def _inside(call: Callable[[], object]) -> Call:
    def seconds() -> float:
        start = process_time()
        with torch.inference_mode():
            call()
        return process_time() - start

    return seconds


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

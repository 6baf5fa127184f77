"""How long the light commands take from the shell, and how many modules they import.

python -m benchmarks.startup [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import process_cost, table
from benchmarks.scaling import blobs

HEAVY = ("torch", "SimpleITK", "itk", "numpy", "matplotlib", "huggingface_hub")
RUN = """
import sys
from carl_cli.cli.app import main
try: main(sys.argv[1:])
except SystemExit as stop: assert not stop.code, stop.code
"""
COUNT = RUN + "print(*sys.modules, file=sys.stderr)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        image, transform = blobs(Path(name), 32, 0), Path(name) / "T.txt"
        transform.write_text(IDENTITY)
        warp = ["warp", image, "-r", image, "-t", transform, "-o", Path(name) / "w.nii"]
        lines = (["--help"], ["weights", "list"], [*warp, "--overwrite", "-q"])
        rows = [row(list(map(str, line)), rounds) for line in lines]
    print(table("carl", ["command", "seconds", "CPU seconds", "modules", "heavy ones"], rows))


IDENTITY = """#Insight Transform File V1.0
Transform: AffineTransform_double_3_3
Parameters: 1 0 0 0 1 0 0 0 1 0 0 0
FixedParameters: 0 0 0
"""


def row(line: list[str], rounds: int) -> list[object]:
    costs = [process_cost([sys.executable, "-c", RUN, *line]) for _ in range(rounds + 1)][1:]
    seconds = statistics.median(cost.seconds for cost in costs)
    cpu = statistics.median(cost.cpu_seconds for cost in costs)
    command = [sys.executable, "-c", COUNT, *line]
    last = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    modules = set(last.splitlines()[-1].split())
    heavy = ", ".join(name for name in HEAVY if name in modules) or "none"
    name = " ".join(word for word in line[:2] if "/" not in word)
    return [name, seconds, cpu, len(modules), heavy]


if __name__ == "__main__":
    main()

"""docs/reference/formats-measured.md: what the tests measured on the files of other programs.

python docs/generate_formats.py    (some minutes: it runs the tests)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Files of other programs

Largest differences that the tests found, each with the other program's own library as the referee
(made by `python docs/generate_formats.py`). Of transforms they are distances between
mapped points, of images distances between voxels or differences of values, as the unit says.
Referees in single precision differ by its rounding.

| file | read or written | referee | largest difference |
| --- | --- | --- | --- |
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        measuring = [
            p
            for p in (ROOT / "tests").rglob("test_*.py")
            if "tests.measured import" in p.read_text()
        ]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *measuring]
        environment = {**os.environ, "CARL_FORMATS": str(notes)}
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        lines = [json.loads(line) for line in notes.read_text().splitlines()]
    (ROOT / "docs/reference/formats-measured.md").write_text(HEAD + table(lines))


def table(lines: list[dict[str, str | float]]) -> str:
    largest: dict[tuple[str, ...], float] = defaultdict(float)
    for line in lines:
        key = tuple(str(line[name]) for name in ("file", "way", "referee", "unit"))
        largest[key] = max(largest[key], float(line["error"]))
    rows = [
        f"| {file} | {way} | {referee} | {error:.1g} {unit} |\n"
        for (file, way, referee, unit), error in sorted(largest.items())
    ]
    return "".join(rows)


if __name__ == "__main__":
    main()

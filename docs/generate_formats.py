"""docs/reference/formats-measured.md: what the tests measured on the files of other programs.

python docs/generate_formats.py    (about ten minutes: it runs the tests)

The referees beside Python's packages are Debian's dcm2niix, dicom3tools, mrtrix3, minc-tools and
plastimatch. Without one a test would skip and leave a gap in the table: the script stops then.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from carl_cli.io.transforms.recognise import MATRIX, SIGNS, SUFFIXES

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("dcm2niix", "dciodvfy", "mrtransform", "mincresample", "plastimatch")
HEAD = """# Files of other programs

What the tests found, each row with another program or its own library as the referee (made by
`python docs/generate_formats.py`). Errors are the largest of all tests: of transforms, distances
between mapped points; of images, between voxels; else in the unit that is given. What is read was
written by the referee, or is found by it in the same file. Referees in single precision differ by
its rounding; MINC interpolates its grids by cubic splines, and ANTs turns tensors by the first
order of a field's inverse.

| file | read | written | referee | largest error |
| --- | --- | --- | --- | --- |
"""
OTHERS = """
## Recognised, and not read as they are

`carl` says what such a file is and what to do.

| file | what to do |
| --- | --- |
"""
Key = tuple[str, str, str]


def main() -> None:
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        sys.exit(f"not installed: {', '.join(absent)}")
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        measuring = [
            str(p)
            for p in sorted((ROOT / "tests").rglob("test_*.py"))
            if "tests.measured import" in p.read_text()
        ]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *measuring]
        environment = {**os.environ, "CARL_FORMATS": str(notes)}
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        lines = [json.loads(line) for line in notes.read_text().splitlines()]
    lines = [line for line in lines if line["referee"] != "carl"]  # no referee of itself
    text = HEAD + table(lines) + OTHERS + ways_out()
    (ROOT / "docs/reference/formats-measured.md").write_text(text)


def table(lines: list[dict[str, str | float]]) -> str:
    largest: dict[Key, float] = defaultdict(float)
    ways: dict[Key, set[str]] = defaultdict(set)
    for line in lines:
        key = (str(line["file"]), str(line["referee"]), str(line["unit"]))
        largest[key] = max(largest[key], float(line["error"]))
        ways[key].add(str(line["way"]))
    rows = []
    for key in sorted(largest, key=lambda key: [word.lower() for word in key]):
        file, referee, unit = key
        marks = ["yes" if way in ways[key] else "" for way in ("read", "written")]
        rows.append([file, *marks, referee, f"{largest[key]:.1g} {unit}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def ways_out() -> str:
    found = dict((*SIGNS.values(), *SUFFIXES.values(), MATRIX))
    return "".join(
        f"| {what} | {way.format(name='FILE')} |\n" for what, way in sorted(found.items())
    )


if __name__ == "__main__":
    main()

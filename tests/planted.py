"""Bugs planted one at a time in a copy of the tree: do the tests see them?

`python tests/planted.py` plants those of planted_bugs.toml: wrong results without a warning, many
of which no test saw at first. With `--mutants N` it draws N small changes in each room instead; a
mutant that survives may compute what the code does, so somebody has to look.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("CARL_TEST_DATA", str(ROOT.parent / "shared/data"))
SECONDS = 600  # tests that take longer hang, which is seen
SECONDS_OF_FILES = count(1)
HEAVY = (
    "torch._dynamo",
    "SimpleITK",
    "nibabel",
    "pydicom",
    "h5py",
    "pydantic",
    "typer",
    "scipy.stats",
)
ROOMS = {
    "transforms": "tests/transforms",
    "io/transforms": "tests/io/transforms",
    "registration": "tests/registration",
    "preprocessing": "tests/preprocessing",
    "batch": "tests/batch",
}
TURNED: dict[type[Any], type[Any]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip
NO_RESULTS = ("annotation", "returns", "exc", "msg", "strict")  # types, messages, zip(strict=)


class Bug(NamedTuple):
    room: str
    what: str
    file: str
    text: str  # of the file, the bug in it
    tests: str


def listed() -> Iterator[Bug]:
    """Raises ValueError for a bug whose place is not in the code, or there several times."""
    table = tomllib.loads(Path(__file__).with_name("planted_bugs.toml").read_text(encoding="utf-8"))
    for place in table["place"]:
        code = (ROOT / place["file"]).read_text(encoding="utf-8")
        for what, old, new in place["bugs"]:
            if code.count(old) != 1:
                raise ValueError(f"{place['file']} holds {code.count(old)} times: {old}")
            yield Bug("listed", what, place["file"], code.replace(old, new), place["tests"])


def drawn(room: str, most: int, seed: int) -> Iterator[Bug]:
    """Changes in the modules of a room, all equally likely."""
    codes = {p: p.read_text("utf-8") for p in sorted((ROOT / "carl_cli" / room).rglob("*.py"))}
    there = [(p, k) for p, code in codes.items() for k, _ in enumerate(changes(ast.parse(code)))]
    for path, number in random.Random(f"{room} {seed}").sample(there, min(most, len(there))):
        tree = ast.parse(codes[path])
        statement, node, field, value = list(changes(tree))[number]
        before = _shown(statement)
        setattr(node, field, value)
        name = path.relative_to(ROOT).as_posix()
        what = f"{name}:{statement.lineno}: {before}  ->  {_shown(statement)}"
        yield Bug(room, what, name, ast.unparse(tree), ROOMS[room])


def _shown(statement: ast.stmt) -> str:
    return ast.unparse(statement).splitlines()[0]


def changes(node: ast.AST, statement: Any = None) -> Iterator[tuple[Any, ast.AST, str, Any]]:
    """(statement, a node in it, its field, another value) of all that may be changed."""
    statement = node if isinstance(node, ast.stmt) else statement
    yield from ((statement, node, field, value) for field, value in _changed(node))
    for field, child in ast.iter_fields(node):
        for each in child if isinstance(child, list) else [child]:
            names = {field, getattr(each, "arg", None)}
            if isinstance(each, ast.AST) and names.isdisjoint(NO_RESULTS):
                yield from changes(each, statement)


def _changed(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield "value", not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:
        yield "ops", [TURNED[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "operand", ast.UnaryOp(ast.Not(), node.operand)
    elif type(getattr(node, "op", None)) in TURNED:
        yield "op", TURNED[type(node.op)]()


def copied(folder: Path) -> Path:
    """The files of the tree that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def passes(tree: Path, tests: str) -> bool:
    """In a process that has the heavy libraries from this one, and all of carl from the tree."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os._exit(_tested(tree, tests))
    for _ in range(10 * SECONDS):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _tested(tree: Path, tests: str) -> int:
    os.chdir(tree)
    sys.path[0] = os.environ["PYTHONPATH"] = str(tree)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]))
    except BaseException:
        return 1


def survives(tree: Path, bug: Bug) -> bool:
    path = tree / bug.file
    before = path.read_text(encoding="utf-8")
    _write(path, bug.text)
    try:
        return passes(tree, bug.tests)
    finally:
        _write(path, before)


def _write(path: Path, text: str) -> None:
    """With a time of its own: Python knows by it whether what it compiled is of this text."""
    path.write_text(text, encoding="utf-8")
    second = next(SECONDS_OF_FILES)
    os.utime(path, (second, second))


def plant(bugs: list[Bug]) -> int:
    """How many survive; each is told. Raises SystemExit where tests fail without any bug."""
    alive, sound = Counter[str](), set[str]()
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        for bug in bugs:
            if bug.tests not in sound and not passes(tree, bug.tests):
                raise SystemExit(f"these tests fail without a bug: {bug.tests}")
            sound.add(bug.tests)
            survived = survives(tree, bug)
            alive[bug.room] += survived
            print("SURVIVED" if survived else "caught  ", bug.what, flush=True)
    for room, planted in Counter(bug.room for bug in bugs).items():
        print(f"{room}: {planted - alive[room]} of {planted} caught")
    return alive.total()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutants", type=int, metavar="N", help="so many in each room")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="listed bugs that this expression finds")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        import_module(name)
    if given.mutants:
        bugs = [bug for room in given.rooms for bug in drawn(room, given.mutants, given.seed)]
    else:
        bugs = [bug for bug in listed() if re.search(given.only, bug.what)]
    sys.exit(min(plant(bugs), 1))


if __name__ == "__main__":
    main()

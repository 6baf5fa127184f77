"""The validation table: carl beside ANTs on four sets of pairs, in one run.

    python benchmarks/validation.py
    python benchmarks/validation.py --shift --card weights/carl-base/README.md

Results are kept in --cache, by the content of the pair and by the version of ANTs, or by carl's
code and weights: another run with new weights costs carl's time alone, and one that was stopped
goes on where it was; --kept computes nothing and shows what there is. --out is written anew after
every pair, with a .json of all rows beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `benchmarks` itself, however this is run

from benchmarks.contest.contenders import (
    METHODS,
    Contender,
    FailedError,
    NotKeptError,
    carl,
    contenders,
)
from benchmarks.contest.measures import figures, score
from benchmarks.contest.moving import KINDS, moved_pair
from benchmarks.contest.pairs import SETS, Pair
from benchmarks.contest.table import Change, Row, markdown, replace_block
from carl_cli import __version__
from carl_cli.weights.locate import locate

DATA = os.environ.get("CARL_TEST_DATA", "../shared/data")
DRAWS = 3


def main() -> None:
    arguments = parsed()
    known = contenders(locate(arguments.weights).resolve())
    chosen = {name: known[name] for name in arguments.methods.split(",")}
    rows: list[Row] = []
    changes: list[Change] = []
    for name, pair in pairs(arguments):
        for method, contender in chosen.items():
            with suppress(NotKeptError):
                rows.append(row(name, pair, method, contender, arguments))
                print(told(rows[-1]), file=sys.stderr, flush=True)
        write(arguments, rows, changes)
    for name, pair in pairs(arguments, arguments.shift):
        with suppress(NotKeptError):
            changes += moves(name, pair, arguments)
        write(arguments, rows, changes)
    text = write(arguments, rows, changes)
    if arguments.card:
        replace_block(arguments.card, text)
    print(text)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(DATA), help="default: CARL_TEST_DATA")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--weights", default="carl-base", help="a name or a folder")
    parser.add_argument("--pairs", type=int, help="at most so many of each set")
    parser.add_argument("--shift", type=int, nargs="?", const=2, default=0, metavar="PAIRS",
                        help="also move so many pairs of each set (2)")  # fmt: skip
    parser.add_argument("--cache", type=Path, default=Path("runs/validation"))
    parser.add_argument("--kept", action="store_true", help="compute nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/validation/table.md"))
    parser.add_argument("--card", type=Path, help="model card whose marked block is replaced")
    return parser.parse_args()


def pairs(arguments: argparse.Namespace, most: int | None = None) -> Iterator[tuple[str, Pair]]:
    for name in arguments.sets.split(","):
        folder = (arguments.cache / "pairs" / name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        made = SETS[name].make(arguments.data, folder)
        for pair in islice(made, arguments.pairs if most is None else most):
            yield name, pair


def row(
    name: str, pair: Pair, method: str, contender: Contender, arguments: argparse.Namespace
) -> Row:
    try:
        result = contender(pair, arguments.cache.resolve(), not arguments.kept)
    except FailedError as error:
        print(f"{method} failed: {error}", file=sys.stderr)
        return Row(name, pair.name, method, *[math.nan] * 3, None, None)
    found = figures(pair, result.transform)
    times = (result.cpu_seconds, result.wall_seconds)
    return Row(
        name, pair.name, method, *asdict(found).values(), *times, result.cached, result.warned
    )


def told(row: Row) -> str:
    seconds = "" if row.cpu_seconds is None else f"{row.cpu_seconds:7.1f} s"
    figures = f"{row.score:8.4f}{row.folded_percent:9.4f} %{seconds}"
    figures += "  warned" if row.warned else ""
    return f"{row.set:8}{row.pair:22}{row.method:10}{figures}"


def moves(name: str, pair: Pair, arguments: argparse.Namespace) -> Iterator[Change]:
    """carl's score on the pair moved in DRAWS ways of each kind, against that of the pair."""
    contender, cache = carl(locate(arguments.weights).resolve()), arguments.cache.resolve()

    def scored(some: Pair) -> float:
        return score(some, contender(some, cache, not arguments.kept).transform)

    still = scored(pair)
    for kind, draw in itertools.product(KINDS, range(1, DRAWS + 1)):
        there = scored(moved_pair(pair, kind, draw, cache / "pairs" / f"{name}-moved"))
        print(f"{name:8}{pair.name:22}{kind} {there - still:+.4f}", file=sys.stderr, flush=True)
        yield Change(name, pair.name, kind, draw, there, there - still)


def write(arguments: argparse.Namespace, rows: list[Row], changes: list[Change]) -> str:
    found = about(arguments)
    text = markdown(found, rows, changes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)
    record = found | {"rows": [asdict(r) for r in rows], "moved": [asdict(c) for c in changes]}
    arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1))
    return text


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    model = locate(arguments.weights) / "model.safetensors"
    return {
        "command": " ".join(["python", "benchmarks/validation.py", *sys.argv[1:]]),
        "weights": Path(arguments.weights).name,
        "digest": hashlib.sha256(model.read_bytes()).hexdigest()[:12],
        "carl": __version__,
        "antspyx": version("antspyx"),
    }


if __name__ == "__main__":
    main()

"""The tables of docs/explanation/paper.md, examples/README.md and examples/paper/README.md.

python docs/generate_paper.py

What is claimed, where it is and what shows it stands in docs/paper.toml. Figures come from the
files of results and from the protocols: nothing that a file holds is typed a second time.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.evaluation.protocol import Protocol, read_protocol

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = ROOT / "docs" / "paper.toml"
PAGE = ROOT / "docs" / "explanation" / "paper.md"
EXAMPLES = ROOT / "examples" / "README.md"
EXPERIMENTS = ROOT / "examples" / "paper" / "README.md"
RESULTS = ROOT / "examples" / "paper" / "results"
SETS = ("baseline", "shift", "scale shift")


def claims() -> list[dict[str, Any]]:
    """Rows of docs/paper.toml: part, paper, claim, files, commands, found."""
    rows: list[dict[str, Any]] = tomllib.loads(CLAIMS.read_text("utf-8"))["claims"]
    return rows


def claim_table(part: str) -> str:
    """One part of the paper: a line a claim."""
    known, lines = measured(), []
    for row in claims():
        if row["part"] == part:
            ticked = (
                " <br> ".join(f"`{one}`" for one in row[key]) for key in ("files", "commands")
            )
            cells = (", ".join(row["paper"]), row["claim"], *ticked, row["found"].format(**known))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(["| Paper | Claim | File | Command | Found |", "|---" * 5 + "|", *lines])


def measured() -> dict[str, Any]:
    """What `found` may name, from the files of results."""
    capture, exact = _json("capture"), _json("diffeomorphisms")
    half = {name: f"{row['half_rise']:.0f}" for name, row in capture.items() if name != "t"}
    largest = {row["dimension"]: row for row in exact}  # the last one is the finest grid
    return {
        "retina": {name: "; ".join(_retina_cells(each)) for name, each in _retina().items()},
        "tau": half.pop("τ"),
        "phi": ", ".join(half.values()),
        "exact": {f"{n}d": f"{row['largest']:.4f}" for n, row in largest.items()},
        "side": {f"{n}d": row["size"] for n, row in largest.items()},
        "equivariance": _equivariance(),
        "shifts": {name: ", ".join(values) for name, values in _shifts().items()},
    }


def _json(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def _retina() -> dict[str, dict[str, list[list[float]]]]:
    """Network → trained on → mean Dice on each test set, a list for each seed."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for name, tests in _json("retina").items():
        network, _, rest = name.partition("-")
        trained_on = rest.rpartition("-")[0].replace("-", " ")
        means = [float(np.mean(tests[kind])) for kind in SETS]
        found.setdefault(network, {}).setdefault(trained_on, []).append(means)
    return found


def _retina_cells(trained: dict[str, list[list[float]]]) -> list[str]:
    """What the right panel of Fig. 3 shows: each set on itself, and the baseline elsewhere."""
    means = {on: np.mean(runs, axis=0) for on, runs in trained.items()}
    if "" in means:  # nobody trained
        return [f"{kind} {value:.3f}" for kind, value in zip(SETS, means[""], strict=True)]
    pairs = [(SETS[0], 0), (SETS[1], 1), (SETS[0], 1), (SETS[2], 2), (SETS[0], 2)]
    return [f"{on} → {SETS[at]} {means[on][at]:.3f}" for on, at in pairs]


def retina_table() -> str:
    """Mean over pairs and seeds."""
    lines = ["| network | trained on | " + " | ".join(SETS) + " |", "|---" * 5 + "|"]
    for network, trained in _retina().items():
        for trained_on, runs in trained.items():
            cells = [f"{value:.3f}" for value in np.mean(runs, axis=0)]
            lines.append(f"| {network} | {trained_on} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def diffeomorphism_table() -> str:
    """Largest error and what is allowed, in 1D and 2D."""
    cells: dict[int, dict[int, str]] = {}
    for row in _json("diffeomorphisms"):
        cells.setdefault(row["size"], {})[row["dimension"]] = (
            f"{row['largest']:.4f} | {row['bound']:.4f}"
        )
    lines = ["| voxels along a side | 1D | allowed | 2D | allowed |", "|---" * 5 + "|"]
    lines += [
        f"| {size} | {each.get(1, ' | ')} | {each.get(2, ' | ')} |"
        for size, each in sorted(cells.items())
    ]
    return "\n".join(lines)


def _csv(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _shifts() -> dict[str, list[str]]:
    """Network → its Dice at each shift; mm: these shifts."""
    found: dict[str, list[str]] = {"mm": []}
    for row in _csv("shifts"):
        found.setdefault(row["network"], []).append(f"{float(row['dice']):.3f}")
        if row["network"] == "none":
            found["mm"].append(f"{float(row['shift_mm']):.0f}")
    return found


def shift_table() -> str:
    """A line a shift."""
    names = ["none", "carl-base", "displacement"]
    columns = _shifts()
    lines = ["| shift, mm | not registered | carl-base | displacement-only |", "|---" * 4 + "|"]
    rows = zip(columns["mm"], *(columns[name] for name in names), strict=True)
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _motions() -> dict[str, dict[str, tuple[float, float]]]:
    """Motion → mode → change that is asked for and mean error, mm, of the only layer."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in _csv("equivariance"):
        told = (float(row["change_mm"]), float(row["mean_mm"]))
        found.setdefault(row["motion"], {})[row["mode"]] = told
    return found


def _equivariance() -> dict[str, str]:
    """Of images moved against each other: smallest to largest mean error of alike motions."""
    against = {motion: modes["[W,U]"] for motion, modes in _motions().items()}
    whole = [v for k, v in against.items() if k.startswith(("shift 1 ", "shift 2 "))]
    part = [v for k, v in against.items() if k.startswith("shift 0.")]
    return {
        "asked": " and ".join(f"{asked:.1f}" for asked, _ in whole),
        "whole": _range([error for _, error in whole]),
        "part": _range([error for _, error in part]),
        "turned": f"{against['rotation 10°'][1]:.1f}",
    }


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low}-{high}"


def equivariance_table() -> str:
    """A line a motion."""
    lines = ["| motion | asked for | moved against each other | moved alike |", "|---" * 4 + "|"]
    for motion, modes in _motions().items():
        (asked, apart), (_, alike) = modes["[W,U]"], modes["[U,U]"]
        lines.append(f"| {motion} | {asked:.1f} | {apart:.2f} | {alike:.2f} |")
    return "\n".join(lines)


def published() -> str:
    """The figures that others published, a table a protocol."""
    paths = sorted((ROOT / "examples" / "protocols").glob("*.toml"))
    return "\n\n".join(figures(read_protocol(path)) for path in paths)


def figures(protocol: Protocol) -> str:
    """A line a method, a column a figure that somebody published."""
    names = [f for f in protocol.figures if any(f in t for t in protocol.published.values())]
    lines = [f"| {protocol.name} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method, told in protocol.published.items():
        cells = [f"{told[name]:.4g}" if name in told else "–" for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([f"{protocol.published_in}:", "", *lines])


TABLES: dict[Path, dict[str, Callable[[], str]]] = {
    PAGE: {
        **{part: partial(claim_table, part) for part in ("method", "training", "results")},
        "figures": published,
    },
    EXAMPLES: {"equivariance": equivariance_table, "shifts": shift_table},
    EXPERIMENTS: {"retina": retina_table, "diffeomorphisms": diffeomorphism_table},
}


def document(page: Path) -> str:
    """The page with today's tables."""
    text = page.read_text(encoding="utf-8")
    for name, table in TABLES[page].items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise SystemExit(f"{page}: no place for {name}, {begin!r} to {end!r} expected")
        text = f"{before}{begin}\n{table()}\n\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    for page in TABLES:
        page.write_text(document(page), encoding="utf-8")

"""The tables of docs/explanation/paper.md, examples/README.md and examples/paper/README.md, and the
picture of Fig. 3.

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
from statistics import fmean
from typing import Any

from carl_cli.evaluation.protocol import Protocol, read_protocol
from examples.paper.retina import FIGURE, Gathered, draw, gathered, mean_and_spread
from examples.paper.retina import table as table_of

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
PICTURE = ROOT / "docs" / "pictures" / "paper-retina.png"


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
    exact = _json("diffeomorphisms")
    half = [", ".join(f"{row['half_rise']:.0f}" for row in rows) for rows in _capture()]
    largest = {row["dimension"]: row for row in exact}  # the last one is the finest grid
    return {
        "retina": retina_figures(),
        "tau": half[0],
        "phi": half[1],
        "exact": {f"{n}d": f"{row['largest']:.4f}" for n, row in largest.items()},
        "side": {f"{n}d": row["size"] for n, row in largest.items()},
        "equivariance": _equivariance(),
        "shifts": {name: ", ".join(values) for name, values in _shifts().items()},
        "rotation": _rotation(),
    }


def _json(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def _retina() -> Gathered:
    return gathered(_json("retina"))


def retina_table() -> str:
    """A line for each network and training set."""
    return table_of(_retina())


def retina_figures() -> dict[str, str]:
    """Of each network what the right panel of Fig. 3 shows, and how many seeds that is of."""
    found = _retina()
    told: dict[str, list[str]] = {}
    for network, trained, tested in found:
        dice = mean_and_spread(found[network, trained, tested])
        if network == "before":
            told.setdefault(network, []).append(f"{tested} {dice}")
        elif (trained, tested) in FIGURE:
            told.setdefault(network, []).append(f"{trained} → {tested} {dice}")
    return {**{network: "; ".join(each) for network, each in told.items()}, "seeds": _seeds(found)}


def _seeds(found: Gathered) -> str:
    """How many there are, and what stands behind ±."""
    counts = {len(runs) for (network, _, _), runs in found.items() if network != "before"}
    if max(counts) == 1:
        return "1 seed"
    number = "-".join(str(n) for n in sorted({min(counts), max(counts)}))
    return f"{number} seeds, ± the standard deviation between them"


def _capture() -> tuple[list[Any], list[Any]]:
    """Of Fig. 8: τ alone, and behind it one Φ after the other."""
    alone, *behind = (row for name, row in _json("capture").items() if name != "t")
    return [alone], behind


def capture_table() -> str:
    """A line without Φ, a line with it; the slope is the mean where t lies from 24 to 60."""
    walls = [k for k, t in enumerate(_json("capture")["t"]) if 24 < t < 60]
    lines = [
        "| | half of the rise of 1 - LNCC at | mean slope from 24 to 60, per 1,000 pixels "
        "| slope first points the wrong way at |",
        "|---" * 4 + "|",
    ]
    for name, rows in zip(("τ alone", "τ, then Φ"), _capture(), strict=True):
        half = ", ".join(f"{row['half_rise']:.0f}" for row in rows)
        steep = ", ".join(f"{1000 * fmean(row['slope'][k] for k in walls):.1f}" for row in rows)
        wrong = ", ".join(f"{row['capture_radius']:.0f}" for row in rows)
        lines.append(f"| {name} | {half} | {steep} | {wrong} |")
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


def _rotations() -> dict[str, dict[str, dict[str, str]]]:
    """Angle → init → row of the file."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in _csv("rotation"):
        found.setdefault(f"{float(row['angle']):.0f}", {})[row["init"]] = row
    return found


def _rotation() -> dict[str, str]:
    """Of each init the angles at which every pair was found."""
    found: dict[str, list[str]] = {}
    for angle, inits in _rotations().items():
        for init, row in inits.items():
            found.setdefault(init, []).extend([f"{angle}°"] * (row["found"] == row["tried"]))
    return {init: ", ".join(angles) or "no angle" for init, angles in found.items()}


def rotation_table() -> str:
    """A line an angle."""
    rows = _rotations()
    inits = list(next(iter(rows.values())))
    lines = ["| angle | " + " | ".join(inits) + " |", "|---" * (len(inits) + 1) + "|"]
    for angle, each in rows.items():
        cells = (
            f"{row['found']} of {row['tried']} ({float(row['error_mm']):.0f} mm)"
            for row in each.values()
        )
        lines.append(f"| {angle}° | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
    EXAMPLES: {
        "equivariance": equivariance_table,
        "shifts": shift_table,
        "rotation": rotation_table,
    },
    EXPERIMENTS: {
        "retina": retina_table,
        "diffeomorphisms": diffeomorphism_table,
        "capture": capture_table,
    },
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
    draw(_retina(), PICTURE)

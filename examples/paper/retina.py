"""Fig. 3: three networks trained and tested on shifted and shrunk vessel maps.

    python -m examples.paper.retina ../shared/data/retina_vessels -o runs/retina

Of DRIVE's 20 training maps, 21-26 are tested on and 27-40 trained on, each as it is and upside
down, as in the authors' script. Every network is trained on each of three data sets and tested on
all of them, once per seed: Dice of the vessels on a grid of 4 × 4 pixels, whatever the resolution
of the network. Started again, it goes on where it stopped. Writes dice.json (every value),
table.md and violins.png (the figure's five pairs of training and test set).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from carl_cli.io.atomic import atomic_path
from carl_cli.model.fields import sample
from carl_cli.model.operators import Registrar
from examples.paper.retina_fitting import Cell, RetinaConfig, fit
from examples.paper.vessels import SETS, dice, make_pairs, read_maps

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Results = dict[str, dict[str, list[float]]]  # cell name → tested on → Dice of each pair
Gathered = dict[tuple[str, str, str], list[list[float]]]  # network, trained and tested on → by seed
TRAINING, TEST = range(27, 41), range(21, 27)
DICE_REDUCTION = 4
NETWORKS = ("CARL", "attention", "displacement")
FIGURE = (  # trained on, tested on
    ("baseline", "baseline"),
    ("shift", "shift"),
    ("baseline", "shift"),
    ("scale shift", "scale shift"),
    ("baseline", "scale shift"),
)
CONFIG = Path(__file__).with_name("retina.toml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("maps", type=Path, help="folder with 01_manual1.gif … 40_manual1.gif")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/retina"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    arguments = parser.parse_args()
    config = RetinaConfig.model_validate(tomllib.loads(arguments.config.read_text()))
    experiment = Experiment(config, arguments.maps, arguments.out)
    for cell in cells(config):
        experiment.run(cell)
    report(experiment.results, arguments.out)


def cells(config: RetinaConfig) -> list[Cell]:
    """All that is trained, seed by seed, so that a run cut short has all nine cells."""
    order = product(config.seeds, SETS, NETWORKS)
    return [Cell(network, kind, seed) for seed, kind, network in order]


class Experiment:
    """Results so far, kept in dice.json of a folder beside the checkpoints."""

    def __init__(self, config: RetinaConfig, maps: Path, out: Path) -> None:
        self.config, self.maps, self.out = config, maps, out
        out.mkdir(parents=True, exist_ok=True)
        self.file = out / "dice.json"
        self.results: Results = json.loads(self.file.read_text()) if self.file.exists() else {}
        if not self.results:
            self.results["before"] = {k: _rounded(dice(*self.test_pairs(k))) for k in SETS}

    def run(self, cell: Cell) -> None:
        """Train and test one cell, unless it is done."""
        if cell.name in self.results:
            return
        pairs = self.training_pairs(cell.trained_on, cell.seed)
        network = fit(self.config, cell, pairs, self.out / "checkpoints", _log)
        self.results[cell.name] = {
            kind: _test(network, self.test_pairs(kind), self.config.reduction) for kind in SETS
        }
        with atomic_path(self.file) as path:
            path.write_text(json.dumps(self.results) + "\n")

    @lru_cache(maxsize=1)  # noqa: B019 - one experiment lives as long as the program
    def training_pairs(self, kind: str, seed: int) -> tuple[Tensor, Tensor]:
        maps, config = read_maps(self.maps, TRAINING), self.config
        return make_pairs(maps, SETS[kind], config.warps, config.reduction, 1000 + seed)

    @lru_cache(maxsize=3)  # noqa: B019
    def test_pairs(self, kind: str) -> tuple[Tensor, Tensor]:
        maps = read_maps(self.maps, TEST)
        return make_pairs(maps, SETS[kind], self.config.test_warps, DICE_REDUCTION, seed=0)


def _log(line: str) -> None:
    print(line, flush=True)


def _test(network: Registrar, pairs: tuple[Tensor, Tensor], reduction: int) -> list[float]:
    """Dice of each pair; the map is found at the network's resolution and applied at the finer."""
    fixed, moving = pairs
    small = [avg_pool2d(images, reduction // DICE_REDUCTION) for images in pairs]
    with torch.inference_mode():
        phi = network(*small).on_grid(fixed.shape[2:])
        return _rounded(dice(fixed, sample(moving, phi, align_corners=False)))


def _rounded(values: Tensor) -> list[float]:
    return [round(float(v), 3) for v in values]


def gathered(results: Results) -> Gathered:
    """(network, trained on, tested on) → Dice values of each seed."""
    found = defaultdict(list)
    for name, tests in results.items():
        network, _, rest = name.partition("-")
        trained_on = rest.rpartition("-")[0].replace("-", " ")
        for tested_on, values in tests.items():
            found[network, trained_on, tested_on].append(values)
    return dict(found)


def report(results: Results, out: Path) -> None:
    """table.md and violins.png of what is there."""
    found = gathered(results)
    (out / "table.md").write_text(table(found) + "\n")
    draw(found, out / "violins.png")


def table(found: Gathered) -> str:
    """A line for each network and training set; a run cut short has fewer seeds in some lines."""
    lines = ["| network | trained on | seeds | " + " | ".join(SETS) + " |"]
    lines.append("|---" * (3 + len(SETS)) + "|")
    for network, trained_on in dict.fromkeys(key[:2] for key in found):
        runs = [found[network, trained_on, kind] for kind in SETS]
        seeds = str(len(runs[0])) if trained_on else ""
        cells = (network, trained_on, seeds, *map(mean_and_spread, runs))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_and_spread(runs: list[list[float]]) -> str:
    """Mean over pairs and seeds ± standard deviation of the seeds' means."""
    means = [np.mean(run) for run in runs]
    spread = f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""
    return f"{np.mean(means):.3f}{spread}"


def draw(values: Gathered, path: Path) -> None:
    """Fig. 3, right: a violin of the pairs' Dice for each network, a dot for each run's mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(10, 4), layout="constrained")
    networks = [name for name in dict.fromkeys(key[0] for key in values) if name != "before"]
    for k, network in enumerate(networks):
        for j, sets in enumerate(FIGURE):
            if runs := values.get((network, *sets)):
                _violin(panel, runs, 4 * j + k, f"C{k}")
        panel.plot([], [], f"C{k}", lw=6, alpha=0.5, label=network)
    for j, (_, tested_on) in enumerate(FIGURE):
        before = np.mean(values["before", "", tested_on])
        panel.hlines(before, 4 * j - 0.5, 4 * j + 2.5, "grey", ":", label=None if j else "before")
    labels = [f"trained: {trained}\ntested: {tested}" for trained, tested in FIGURE]
    panel.set_xticks([4 * j + 1 for j in range(len(FIGURE))], labels)
    panel.set(ylim=(0, 0.8), ylabel="Dice of the vessels")
    panel.legend(loc="upper center", ncols=len(networks) + 1)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _violin(panel: Any, runs: list[list[float]], place: int, colour: str) -> None:
    bodies = panel.violinplot(np.concatenate(runs), [place], showmeans=True, widths=0.9)
    _colour(bodies, colour)
    panel.plot([place] * len(runs), [np.mean(run) for run in runs], ".", color="black")


def _colour(bodies: dict, colour: str) -> None:
    for body in bodies["bodies"]:
        body.set_facecolor(colour)
    for part in ("cbars", "cmins", "cmaxes", "cmeans"):
        bodies[part].set_color(colour)


if __name__ == "__main__":
    main()

"""Fig. 3: three networks trained and tested on shifted and shrunk vessel maps.

    python -m examples.paper.retina ../shared/data/retina_vessels -o runs/retina

DRIVE's maps 21-40 are trained on, 01-20 tested on. Every network is trained on each of three
data sets and tested on all of them, once per seed: Dice of the vessels on a grid of 4 × 4
pixels, whatever the resolution of the network. Started again, it goes on where it stopped.
Writes dice.json (every value), table.md and violins.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from functools import lru_cache
from itertools import product
from pathlib import Path

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
TRAINING, TEST = range(21, 41), range(1, 21)
DICE_REDUCTION = 4
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
    """All that is trained: the baseline with every seed first, which is what generalises or not,
    then the other sets seed by seed, so that a run cut short has all nine cells."""
    baseline, *others = SETS
    order = [*product(config.seeds, [baseline]), *product(config.seeds, others)]
    return [Cell(network, kind, seed) for seed, kind in order for network in config.networks]


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


def gathered(results: Results) -> dict[tuple[str, str, str], list[list[float]]]:
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
    lines = ["| network | trained on | " + " | ".join(SETS) + " |", "|---" * (2 + len(SETS)) + "|"]
    for network, trained_on in dict.fromkeys(key[:2] for key in found):
        values = [_mean_and_spread(found[network, trained_on, kind]) for kind in SETS]
        lines.append(f"| {network} | {trained_on} | " + " | ".join(values) + " |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    draw({key: np.concatenate(values) for key, values in found.items()}, out / "violins.png")


def _mean_and_spread(values: list[list[float]]) -> str:
    """Mean over pairs and seeds ± standard deviation of the seeds' means."""
    means = [np.mean(v) for v in values]
    spread = f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""
    return f"{np.mean(means):.3f}{spread}"


def draw(values: dict[tuple[str, str, str], np.ndarray], path: Path) -> None:
    """One panel per test set, grouped by training set, one violin per network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    networks = [name for name in dict.fromkeys(key[0] for key in values) if name != "before"]
    for panel, tested_on in zip(panels, SETS, strict=True):
        for k, network in enumerate(networks):
            for j, trained_on in enumerate(SETS):
                if (network, trained_on, tested_on) in values:
                    place = [4 * j + k]
                    bodies = panel.violinplot(
                        values[network, trained_on, tested_on], place, showmeans=True, widths=0.9
                    )
                    _colour(bodies, f"C{k}")
            panel.plot([], [], f"C{k}", lw=6, alpha=0.5, label=network)
        before = values["before", "", tested_on].mean()
        panel.axhline(before, color="grey", ls=":", label="before")
        panel.set(title=f"tested on {tested_on}", ylim=(0, 0.8), xlabel="trained on")
        panel.set_xticks([1, 5, 9], SETS)
    panels[0].set_ylabel("Dice of the vessels")
    panels[0].legend(loc="upper left", ncols=2)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _colour(bodies: dict, colour: str) -> None:
    for body in bodies["bodies"]:
        body.set_facecolor(colour)
    for part in ("cbars", "cmins", "cmaxes", "cmeans"):
        bodies[part].set_color(colour)


if __name__ == "__main__":
    main()

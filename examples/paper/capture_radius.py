"""How far off the first step may be and still feel which way to go (Appendix E, Fig. 8).

    python -m examples.paper.capture_radius ../shared/data/retina_vessels runs/retina

A vessel map is registered with itself, and a translation by t pixels stands in for the first
step. 1 - LNCC and its derivative by t are computed after it alone, and after the trained
refinements of CARL have followed: gradients that reach Ξ come through them. The capture radius is
the distance up to which the derivative points away from t = 0 everywhere. Lengths in pixels of
the original maps; t stands half-way between pixels of the network's grid, where linear
interpolation always blurs alike. Writes capture.json and capture.png beside the run of `retina`
that it reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from carl_cli.model.fields import DisplacementMap, sample
from carl_cli.model.network import build_network, with_coarse
from carl_cli.model.operators import Kept, Registrar
from carl_cli.model.similarity import local_correlation
from carl_cli.training.run_folder import load_state
from examples.paper.retina import CONFIG, TEST
from examples.paper.retina_fitting import Cell, RetinaConfig
from examples.paper.vessels import CANVAS_YX, SETS, make_pairs, read_maps

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 250  # original pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("maps", type=Path, help="folder with 01_manual1.gif … 40_manual1.gif")
    parser.add_argument("run", type=Path, help="output folder of examples.paper.retina")
    parser.add_argument("--config", type=Path, default=CONFIG, help="that the run used")
    parser.add_argument("--count", type=int, default=8, help="test maps to average over")
    arguments = parser.parse_args()
    config = RetinaConfig.model_validate(tomllib.loads(arguments.config.read_text()))
    network = trained_carl(config, arguments.run)
    maps = read_maps(arguments.maps, TEST[: arguments.count])
    images = avg_pool2d(make_pairs(maps, SETS["baseline"], 1, 1, 0)[1], config.reduction)
    t = torch.arange(0.5, LARGEST / config.reduction) * config.reduction
    curves = {"after the first step": curve(None, images, t)}
    curves["after the second step"] = curve(network, images, t)
    report(t, curves, arguments.run)


def trained_carl(config: RetinaConfig, run: Path) -> Registrar:
    """CARL as trained on the baseline with the first seed."""
    network = build_network(config.networks["CARL"])
    name = Cell("CARL", "baseline", config.seeds[0]).name
    network.load_state_dict(load_state(run / "checkpoints", name)["network"])
    return network.requires_grad_(False).eval()


def curve(refinements: Registrar | None, images: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """1 - LNCC and its derivative by t, both (T,) means over the images (B, 1, y, x)."""
    losses = [loss_and_slope(refinements, image[None], t) for image in images]
    values, slopes = (torch.stack(kind).mean(0) for kind in zip(*losses, strict=True))
    return values, slopes


def loss_and_slope(
    refinements: Registrar | None, image: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """(T,) each, of one image (1, 1, y, x) against itself moved t original pixels along y.

    refinements: a network whose coarse part is replaced by the translation; None: alone.
    """
    t = t.clone().requires_grad_()
    images = image.expand(len(t), -1, -1, -1)
    shape = image.shape[2:]
    rows = (t / CANVAS_YX[0]).view(-1, 1, 1, 1).expand(-1, 1, *shape)
    first = DisplacementMap(torch.cat([rows, torch.zeros_like(rows)], 1), align_corners=False)
    kept = Kept(first, first)
    network = kept if refinements is None else with_coarse(refinements, kept)
    warped = sample(images, network(images, images).on_grid(shape), align_corners=False)
    loss = 1 - local_correlation(images, warped, sigma=4).mean((1, 2, 3))
    loss.sum().backward()
    assert t.grad is not None
    return loss.detach(), t.grad


def capture_radius(t: Tensor, slopes: Tensor) -> float:
    """The first t (they grow) at which the loss no longer rises, or the last of them."""
    wrong = torch.nonzero(slopes <= 0).flatten()
    return float(t[-1] if len(wrong) == 0 else t[wrong[0]])


def report(t: Tensor, curves: dict[str, tuple[Tensor, Tensor]], out: Path) -> None:
    table = {
        name: {
            "capture_radius": capture_radius(t, slopes),
            "loss": [round(float(v), 4) for v in values],
            "slope": [round(float(v), 6) for v in slopes],
        }
        for name, (values, slopes) in curves.items()
    }
    for name, row in table.items():
        print(f"{name}: capture radius {row['capture_radius']:.0f} pixels")
    content = {"t": t.tolist(), **table}
    (out / "capture.json").write_text(json.dumps(content) + "\n")
    draw(t, curves, out / "capture.png")


def draw(t: Tensor, curves: dict[str, tuple[Tensor, Tensor]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for name, (values, slopes) in curves.items():
        upper.plot(t, values, label=name)
        lower.plot(t, slopes, label=f"{name}: radius {capture_radius(t, slopes):.0f}")
    lower.axhline(0, color="grey", lw=0.5)
    upper.set(xlabel="t (original pixels)", title="1 - LNCC")
    lower.set(xlabel="t (original pixels)", title="its derivative by t")
    for panel in (upper, lower):
        panel.legend()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()

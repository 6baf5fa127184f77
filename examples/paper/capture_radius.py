"""How far off the first step may be and still feel which way to go (Appendix E, Fig. 8).

    python -m examples.paper.capture_radius ../shared/data/retina_vessels -o runs/capture

As in the appendix, Φ is a network of a single step, Ψ on the whole grid, briefly trained on the
baseline of Fig. 3; once per seed. A translation by t pixels along x (Eq. 24) stands in for the
first step, on test pairs of the baseline. 1 - LNCC and its derivative by t are computed after it
alone, and after Φ has followed. The capture radius is the distance up to which the derivative
points away from t = 0 everywhere; half of the rise is done where 1 - LNCC is half-way from its
smallest to its largest value. Lengths in pixels of the original maps; t stands half-way between
pixels of the network's grid, where linear interpolation always blurs alike. Writes capture.json
and capture.png; trained networks are found again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from carl_cli.model.coarse import with_coarse
from carl_cli.model.fields import DisplacementMap, sample
from carl_cli.model.operators import Kept, Registrar, TwoStep
from carl_cli.model.similarity import local_correlation
from examples.paper.retina import TEST, TRAINING
from examples.paper.retina_fitting import Cell, RetinaConfig, fit
from examples.paper.vessels import CANVAS_YX, SETS, make_pairs, read_maps

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG = Path(__file__).with_name("retina-quick.toml")
GRADICON_STEPS = 400  # of Φ: after the 100 of the quick config it hardly moves an image
LARGEST = 250  # original pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("maps", type=Path, help="folder with 21_manual1.gif … 40_manual1.gif")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/capture"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=8, help="test pairs to average over")
    arguments = parser.parse_args()
    config = RetinaConfig.model_validate(
        tomllib.loads(CONFIG.read_text()) | {"gradicon_steps": GRADICON_STEPS}
    )
    maps = read_maps(arguments.maps, TEST)[: arguments.count]
    pairs = make_pairs(maps, SETS["baseline"], 1, config.reduction, 0)
    t = torch.arange(0.5, LARGEST / config.reduction) * config.reduction
    curves = {"τ": curve(None, pairs, t)}
    for seed in range(arguments.seeds):
        network = single_step(config, arguments.maps, arguments.out, seed)
        curves[f"τ, then Φ {seed}"] = curve(network, pairs, t)
    report(t, curves, arguments.out)


def single_step(config: RetinaConfig, maps: Path, out: Path, seed: int) -> Registrar:
    """Φ = Ψ, trained on the baseline; behind the identity, which `curve` replaces by τ."""
    pairs = make_pairs(
        read_maps(maps, TRAINING), SETS["baseline"], config.warps, config.reduction, 1000 + seed
    )
    cell = Cell("single", "baseline", seed)
    network = fit(config, cell, pairs, out / "checkpoints", lambda line: print(line, flush=True))
    nothing = DisplacementMap(torch.zeros(1, 2, 1, 1), align_corners=False)
    behind = TwoStep(Kept(nothing, nothing), network, align_corners=False)
    return behind.requires_grad_(False)


def curve(
    refinements: Registrar | None, pairs: tuple[Tensor, Tensor], t: Tensor
) -> tuple[Tensor, Tensor]:
    """1 - LNCC and its derivative by t, both (T,) means over the fixed and moving (B, 1, y, x)."""
    losses = [
        loss_and_slope(refinements, fixed[None], moving[None], t)
        for fixed, moving in zip(*pairs, strict=True)
    ]
    values, slopes = (torch.stack(kind).mean(0) for kind in zip(*losses, strict=True))
    return values, slopes


def loss_and_slope(
    refinements: Registrar | None, fixed: Tensor, moving: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """(T,) each, of one pair (1, 1, y, x) whose map starts t original pixels along x.

    refinements: a network whose coarse part is replaced by the translation; None: alone.
    """
    t = t.clone().requires_grad_()
    fixed, moving = (image.expand(len(t), -1, -1, -1) for image in (fixed, moving))
    shape = fixed.shape[2:]
    columns = (t / CANVAS_YX[1]).view(-1, 1, 1, 1).expand(-1, 1, *shape)
    first = DisplacementMap(torch.cat([torch.zeros_like(columns), columns], 1), align_corners=False)
    kept = Kept(first, first)
    network = kept if refinements is None else with_coarse(refinements, kept)
    warped = sample(moving, network(fixed, moving).on_grid(shape), align_corners=False)
    loss = 1 - local_correlation(fixed, warped, sigma=4).mean((1, 2, 3))
    loss.sum().backward()
    assert t.grad is not None
    return loss.detach(), t.grad


def capture_radius(t: Tensor, slopes: Tensor) -> float:
    """The first t (they grow) at which the loss no longer rises, or the last of them."""
    wrong = torch.nonzero(slopes <= 0).flatten()
    return float(t[-1] if len(wrong) == 0 else t[wrong[0]])


def half_rise(t: Tensor, values: Tensor) -> float:
    """The first t at which the loss is half-way from its smallest to its largest value."""
    middle = (values.min() + values.max()) / 2
    k = int(torch.nonzero(values >= middle)[0])
    share = (middle - values[k - 1]) / (values[k] - values[k - 1]) if k else torch.tensor(0.0)
    return float(t[max(k - 1, 0)] + share * (t[k] - t[max(k - 1, 0)]))


def report(t: Tensor, curves: dict[str, tuple[Tensor, Tensor]], out: Path) -> None:
    table = {
        name: {
            "capture_radius": capture_radius(t, slopes),
            "half_rise": round(half_rise(t, values), 1),
            "loss": [round(float(v), 4) for v in values],
            "slope": [round(float(v), 6) for v in slopes],
        }
        for name, (values, slopes) in curves.items()
    }
    for name, row in table.items():
        radius, half = (row[key] for key in ("capture_radius", "half_rise"))
        print(f"{name}: capture radius {radius:.0f} pixels, half of the rise at {half:.0f}")
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

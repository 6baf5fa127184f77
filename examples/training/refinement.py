"""Ψ behind a frozen Ξ and Λ, by the method of carl-base: on one core, in about an hour.

    carl train prepare FOLDER --freesurfer -o runs/data/brains-2mm.npz
    python examples/training/refinement.py runs/data/brains-2mm.npz runs/refinement --minutes 75

Ξ and Λ take most of the time of a step, so what they found is kept: a pair is rendered and matched
once, then shown many times, turned, cut and with other intensities. One Ψ learns at half and at
full resolution at once, from what is left before it there. It is trained as it is used: behind it
the two directions are made each other's inverse (`refine_symmetric`).

Shapes: (2, C, *shape) of both directions, fixed → moving first; u in unit coordinates.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.optim.swa_utils import AveragedModel

from carl_cli.model.fields import DisplacementMap, identity, sample
from carl_cli.model.layers import pool
from carl_cli.model.network import build_network
from carl_cli.model.operators import Kept, Registrar, SymmetricTwoStep
from carl_cli.model.regularity import diffusion
from carl_cli.model.similarity import lncc
from carl_cli.model.unet import DisplacementUNet
from carl_cli.training.losses import common_labels, field_error, most_frequent, soft_dice, to_voxels
from carl_cli.training.optimiser import averaged_model
from carl_cli.training.start import parts
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import PairSynthesiser, SynthesisSettings
from carl_cli.training.synthesis.shapes import load_label_maps
from carl_cli.weights.folder import Weights, load_weights, save_weights
from carl_cli.weights.locate import locate

SIDE = 96  # of the pairs; Ψ sees parts of at most half of it
SETTINGS = SynthesisSettings(
    shape_zyx=(SIDE,) * 3,
    real_fraction=0.65,
    same_map_fraction=0.35,
    contrast_weights=(0.75, 0.15, 0.1),
    translation=0.06,
    rotation_degrees=10.0,
    scale=(0.85, 1.15),
    strip_fraction=0.1,
    crop_fraction=0.15,
    slab_fraction=0.05,
    degradation=0.8,
)
TRAINED_ON = tuple(f"subject{k:02}" for k in range(1, 10))
FRESH_EVERY, FIRST_PAIRS = 12, 50  # steps for a new pair; so many of them come three times as fast
RATE, WARM_UP, CLIP = 6e-4, 50, 1.0
STIFFNESS = 0.15  # weight of the diffusion of what Ψ adds, voxels, mean of both directions
KNOWN = 0.3  # weight of the distance from the truth, voxels
DECAY = 0.995
THIN, THINNEST = 0.3, 6  # share of the views that are slabs, and voxels of the thinnest


@dataclass(frozen=True)
class View:
    """A pair and the maps so far, both directions; labels int64. Where the correspondence is
    known, u and visible have a third entry: the true displacement, and where it counts."""

    images: Tensor
    labels: Tensor
    visible: Tensor
    u: Tensor
    alike: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[2:])


class Added(Registrar):
    """Ψ, with a list of the displacements that it added."""

    def __init__(self, unet: DisplacementUNet) -> None:
        super().__init__()
        self.unet = unet
        self.noted: list[Tensor] = []

    def forward(self, fixed: Tensor, moving: Tensor) -> DisplacementMap:
        found = self.unet(fixed, moving)
        self.noted.append(found.displacement_BDx)
        return found


def made_pair(synthesiser: PairSynthesiser, matching: Registrar, number: int) -> tuple[View, View]:
    """A pair at half and at full resolution, with the maps of Ξ and Λ."""
    pair = synthesiser.pair(number)
    images = torch.cat([pair.fixed, pair.moving])
    labels = torch.cat([pair.fixed_labels, pair.moving_labels])
    visible = torch.cat([pair.fixed_visible, pair.moving_visible])
    half = pool(images)
    with torch.no_grad():
        maps = matching.both(half[:1], half[1:])
        u = torch.cat([map_.on_grid(half.shape[2:]) for map_ in maps])
    u = u - identity(half.shape[2:], False)
    coarse = torch.stack([most_frequent(one[0], 2)[None] for one in labels])
    alike = pair.contrast == "same"
    if pair.phi is not None:
        assert pair.valid is not None
        true = (pair.phi + 0.5) / SIDE - identity((SIDE,) * 3, False)
        visible = torch.cat([visible, pair.valid & (pair.fixed_labels > 0)])
        u = torch.cat([u, pool(true)])
    seen = pool(visible.float()) > 0.9
    return View(half, coarse, seen, u, alike), View(images, labels, visible, u, alike)


def at_full(half: View, full: View, unet: DisplacementUNet) -> View:
    """The pair with what Ψ finds at half resolution."""
    with torch.no_grad():
        u = torch.cat([refined(half, Added(unet)), half.u[2:]])
    return replace(full, u=interpolate(u, scale_factor=2, mode="trilinear"))


def refined(view: View, unet: Registrar) -> Tensor:
    """u of both directions behind Ψ."""
    first = Kept(*(DisplacementMap(u[None], False) for u in view.u[:2]))
    maps = SymmetricTwoStep(first, unet, False).both(view.images[:1], view.images[1:])
    return torch.cat([map_.displacement_BDx for map_ in maps])


def turned(view: View, chance: Chance) -> View:
    """Axes permuted and flipped, in both images alike."""
    order = chance.permutation(3)
    flips = [k for k in range(3) if chance.coin(0.5)]

    def placed(x: Tensor) -> Tensor:
        return x.permute(0, 1, *(2 + k for k in order)).flip([2 + k for k in flips])

    signs = torch.tensor([-1.0 if k in flips else 1.0 for k in range(3)]).view(1, 3, 1, 1, 1)
    images, labels, visible = map(placed, (view.images, view.labels, view.visible))
    return View(images, labels, visible, placed(view.u)[:, order] * signs, view.alike)


def cut(view: View, chance: Chance) -> View:
    """A part of at most half the pairs' side, the same of both images, with content in it; now
    and then as thin as a slab."""
    most = min(*view.shape, SIDE // 2)
    size = [8 * chance.integer(most // 12, most // 8) for _ in range(3)]
    if chance.coin(THIN):
        size[chance.integer(0, 2)] = 2 * chance.integer(THINNEST // 2, 8)
    inside = torch.nonzero(view.labels[0, 0] > 0)
    centre = inside[chance.integer(0, len(inside) - 1)] if len(inside) else torch.tensor(size) // 2
    starts = [
        min(max(0, int(c) - n // 2), whole - n)
        for c, n, whole in zip(centre, size, view.shape, strict=True)
    ]
    a, b, c = (slice(start, start + n) for start, n in zip(starts, size, strict=True))
    images, labels, visible, u = (
        x[:, :, a, b, c] for x in (view.images, view.labels, view.visible, view.u)
    )
    larger = torch.tensor(view.shape) / torch.tensor(size)  # unit coordinates are of the part
    return View(images, labels, visible, u * larger.view(1, 3, 1, 1, 1), view.alike)


def recoloured(view: View, chance: Chance) -> View:
    """Another gamma; pairs of one contrast may be inverted."""
    images = view.images ** (2 ** (0.4 * float(chance.normal(1))))
    if view.alike and chance.coin(0.3):
        images = images.amax() - images
    return replace(view, images=images)


def loss_of(view: View, unet: DisplacementUNet, chance: Chance) -> Tensor:
    """LNCC of like contrasts, soft Dice of the labels or distance from the truth, and the
    diffusion of what Ψ added."""
    added = Added(unet)
    phi = identity(view.shape, False) + refined(view, added)
    cubic = torch.tensor(view.shape).view(1, 3, 1, 1, 1) / view.shape[0]  # as `diffusion` takes it
    terms = [STIFFNESS / 2 * diffusion(u * cubic, torch.zeros_like(u)) for u in added.noted]
    inside = ((phi > 0) & (phi < 1)).all(1, keepdim=True)
    visible = view.visible[:2]
    seen = visible & inside & (sample(visible.flip(0).float(), phi, False) > 0.5)
    if view.alike:
        terms.append(lncc(view.images, sample(view.images.flip(0), phi, False), seen, sigma=2))
    terms += _known(view, phi) if len(view.u) > 2 else _labelled(view, phi, seen, chance)
    return torch.stack(terms).sum()


def _known(view: View, phi: Tensor) -> list[Tensor]:
    true = identity(view.shape, False) + view.u[2:]
    found, true = (to_voxels(x, view.shape, False) for x in (phi[:1], true))
    return [KNOWN * field_error(found, true, view.visible[2:].float())]


def _labelled(view: View, phi: Tensor, seen: Tensor, chance: Chance) -> list[Tensor]:
    labels = common_labels(chance, view.labels[:1], view.labels[1:], 10)
    if not len(labels):
        return []
    forward = soft_dice(view.labels[:1], view.labels[1:], phi[:1], seen[:1], labels, False)
    backward = soft_dice(view.labels[1:], view.labels[:1], phi[1:], seen[1:], labels, False)
    return [(forward + backward) / 2]


def views(weights: Weights, maps: Path, unet: DisplacementUNet, seed: int) -> Iterator[View]:
    """Without end: a kept pair, at half or at full resolution, seen in another way each time."""
    people = load_label_maps(maps)
    synthesiser = PairSynthesiser(SETTINGS, [people[name] for name in TRAINED_ON], seed)
    matching = parts_before(weights.network)
    kept: list[tuple[View, View]] = []
    for step in count():
        every = FRESH_EVERY // 3 if len(kept) < FIRST_PAIRS else FRESH_EVERY
        if step % every == 0:
            kept.append(made_pair(synthesiser, matching, len(kept)))
        chance = Chance(seed, "view", step)
        half, full = kept[-1] if step % every == 0 else kept[chance.integer(0, len(kept) - 1)]
        view = at_full(half, full, unet) if chance.coin(0.5) else half
        yield recoloured(cut(turned(view, chance), chance), chance)


def parts_before(network: Registrar) -> Registrar:
    """Ξ and Λ: what refines nothing yet, on images of half resolution."""
    while not isinstance(network, SymmetricTwoStep) or isinstance(network.second, DisplacementUNet):
        network = getattr(network, "inner", None) or network.first  # type: ignore[assignment]
    return network


def learn(weights: Weights, maps: Path, out: Path, minutes: float, seed: int) -> AveragedModel:
    unet = next(m for m in weights.network.modules() if isinstance(m, DisplacementUNet))
    optimiser = torch.optim.Adam(unet.parameters(), betas=(0.9, 0.98))
    average, begun = averaged_model(unet, DECAY), time.monotonic()
    with (out / "log.jsonl").open("a") as log:
        for step, view in enumerate(views(weights, maps, unet, seed)):
            if (done := (time.monotonic() - begun) / 60 / minutes) >= 1:
                return average
            for group in optimiser.param_groups:
                rise = min(1.0, (step + 1) / WARM_UP)
                group["lr"] = RATE * rise * (0.5 + 0.5 * math.cos(math.pi * done))
            loss = loss_of(view, unet, Chance(seed, "loss", step))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), CLIP)
            optimiser.step()
            average.update_parameters(unet)
            log.write(json.dumps({"step": step, "loss": loss.item(), "shape": view.shape}) + "\n")
    raise AssertionError("views end never")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("maps", type=Path, help="as `carl train prepare` writes them")
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default="carl-base", help="whose Ξ and Λ, and Ψ to begin with")
    parser.add_argument("--minutes", type=float, default=75.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = load_weights(locate(arguments.weights))
    average = learn(weights, arguments.maps, arguments.out, arguments.minutes, arguments.seed)
    model = weights.config.model.model_copy(
        update={"refine_scales": (2, 1), "refine_symmetric": True}
    )
    network = build_network(model)
    coarse, *_ = parts(weights.network)
    mine, *_, first, second = parts(network)
    mine.load_state_dict(coarse.state_dict())
    for refinement in (first, second):
        refinement.load_state_dict(average.module.state_dict())
    config = weights.config.model_copy(update={"model": model, "files": {}, "self_test": ()})
    save_weights(arguments.out / "weights", network, config, "Trained by refinement.py.\n")


if __name__ == "__main__":
    main()

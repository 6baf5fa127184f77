"""Ξ_F: an untrained network that registers images which are themselves diffeomorphisms.

    python -m examples.paper.diffeomorphisms -o runs/diffeomorphisms

Appendix C, Fig. 7. An image may have as many channels as dimensions and be one-to-one: its
value then names its place. Features are a 1 × 1 convolution with large random weights and a
sine, so that their inner products fall like a Gaussian with the distance of two values, and
coordinate attention reads the place off: Ξ_F[F, M] = M⁻¹ ∘ F, without any training. With

  F(x) = x + 0.07 sin 3πx,   M(y) = cos(πy/2)   the answer is   2/π · arccos(x + 0.07 sin 3πx);

in 2D the components of F depend on both coordinates. Writes diffeomorphisms.png and .json.

The error, in the interior. Write G = M⁻¹, h for the spacing, S = 64 for the largest logit, σ
for the standard deviation of the weights and n(m) for the normalised features of a value m. A
row of attention is exp(S n(f)·n(m)): largest at m = f exactly, and near there a Gaussian of
width τ = 1/(σ√S), which σ makes equal to h. Its mean place is off by two things.

- G is curved and M dense here, sparse there: 3/2·τ²G'' to leading order.
- With K features the metric g = |n'|² varies from place to place, which skews the row: in D
  dimensions by a standard deviation of τ|G'|·√((D + 2)(8D + 25)/4/SK).

`expected_error` is the first plus six of the second. Both fall with h.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from carl_cli.model.attention import CoordinateAttention
from carl_cli.model.fields import identity
from carl_cli.model.kernels.attention import MAX_NORM, MAX_SHARPNESS

LARGEST_LOGIT = MAX_SHARPNESS * MAX_NORM**2
WIDTH = 1024  # features
SIZES = {1: (33, 65, 129, 257, 513), 2: (33, 65, 97)}
INTERIOR = (0.3, 0.9)  # of M: cos is flat at 0, and a row is cut off at 1


class SineFeatures(nn.Module):
    """Image (B, C, *shape) → (B, width, *shape) features of length 4, nothing learned."""

    def __init__(self, channels: int, width: int, sigma: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.channels = channels
        self.weight = sigma * torch.randn(width, channels, generator=generator)
        self.phase = 2 * math.pi * torch.rand(width, generator=generator)

    def forward(self, image: Tensor) -> Tensor:
        waves = torch.einsum("kc,bc...->bk...", self.weight, image)
        x = torch.sin(waves + self.phase.view(-1, *[1] * (image.dim() - 2)))
        return MAX_NORM * x / torch.linalg.vector_norm(x, dim=1, keepdim=True)


def untrained_network(
    dimension: int, size: int, width: int = WIDTH, seed: int = 0
) -> CoordinateAttention:
    """Ξ_F for images of `size` voxels a side."""
    sigma = (size - 1) / math.sqrt(LARGEST_LOGIT)  # τ = h
    features = SineFeatures(dimension, width, sigma, seed)
    return CoordinateAttention(features, 0, True, sharpness=MAX_SHARPNESS)


def fixed_image(x: Tensor) -> Tensor:
    """F at points (B, D, *any): a diffeomorphism of the interval or of the square."""
    if x.shape[1] == 1:
        return x + 0.07 * torch.sin(3 * math.pi * x)
    a, b = (math.pi * c for c in x.split(1, dim=1))
    return x + 0.07 * torch.cat([a.sin() * (2 * b).sin(), -(2 * a).sin() * b.sin()], dim=1)


def moving_image(y: Tensor) -> Tensor:
    return torch.cos(math.pi / 2 * y)


def closed_form(x: Tensor) -> Tensor:
    """M⁻¹ ∘ F."""
    return 2 / math.pi * torch.arccos(fixed_image(x).clamp(0, 1))


def registered(dimension: int, size: int, seed: int = 0) -> Tensor:
    """(1, D, *shape) what Ξ_F finds, in unit coordinates."""
    grid = identity((size,) * dimension, True)
    network = untrained_network(dimension, size, seed=seed)
    with torch.inference_mode():
        return network(fixed_image(grid), moving_image(grid)).on_grid(grid.shape[2:])


def expected_error(places: Tensor, size: int, width: int = WIDTH) -> Tensor:
    """The largest error at places (B, D, *any) of M, by component; see above."""
    tau, angle, d = 1 / (size - 1), math.pi / 2 * places, places.shape[1]
    slope = 2 / math.pi / angle.sin()
    curvature = 2 / math.pi * angle.cos() / angle.sin() ** 3
    skew = math.sqrt((d + 2) * (8 * d + 25) / (4 * LARGEST_LOGIT * width))
    return 1.5 * tau**2 * curvature + 6 * skew * tau * slope


def interior(places: Tensor) -> Tensor:
    """(1, 1, *any) where all components lie away from the ends."""
    low, high = INTERIOR
    return ((places > low) & (places < high)).all(dim=1, keepdim=True)


def errors(dimension: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Error and expected error (1, D, *shape), 0 outside of the interior."""
    truth = closed_form(identity((size,) * dimension, True))
    error = (registered(dimension, size, seed) - truth).abs()
    inside = interior(truth)
    bound = expected_error(truth, size)
    return torch.where(inside, error, 0.0), torch.where(inside, bound, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/diffeomorphisms"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    table = [_row(d, n) for d, sizes in SIZES.items() for n in sizes]
    (out / "diffeomorphisms.json").write_text(json.dumps(table, indent=1) + "\n")
    for row in table:
        print(
            "{dimension}D  {size:4d} voxels  error {largest:.5f}  expected ≤ {bound:.5f}".format(
                **row
            )
        )
    _draw(table, out / "diffeomorphisms.png")


def _row(dimension: int, size: int) -> dict[str, float]:
    error, bound = errors(dimension, size)
    return {
        "dimension": dimension,
        "size": size,
        "largest": round(error.max().item(), 6),
        "mean": round(error.sum().item() / (error > 0).sum().item(), 6),
        "bound": round(bound.max().item(), 6),
    }


def _draw(table: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (line, square, log) = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    x = identity((65,), True)
    line.plot(x[0, 0], closed_form(x)[0, 0], "k", lw=3, alpha=0.3, label="closed form")
    line.plot(x[0, 0], registered(1, 65)[0, 0], ".", label="Ξ_F, 65 voxels")
    line.set(xlabel="x in the fixed image", ylabel="place in the moving image", title="1D")
    line.legend()
    for phi, style in (
        (closed_form(identity((33, 33), True)), {"color": "k", "lw": 3, "alpha": 0.3}),
        (registered(2, 33), {"color": "C0", "lw": 1}),
    ):
        for k in range(0, 33, 4):
            square.plot(phi[0, 1, k], phi[0, 0, k], **style)
            square.plot(phi[0, 1, :, k], phi[0, 0, :, k], **style)
    square.set(title="2D, 33 × 33 voxels: lines of the fixed image", aspect="equal")
    for dimension in SIZES:
        rows = [row for row in table if row["dimension"] == dimension]
        sizes = [row["size"] for row in rows]
        log.loglog(sizes, [row["largest"] for row in rows], "o-", label=f"{dimension}D, largest")
        log.loglog(sizes, [row["bound"] for row in rows], "--", label=f"{dimension}D, expected ≤")
    log.set_xticks(SIZES[1], [str(n) for n in SIZES[1]])
    log.minorticks_off()
    log.set(xlabel="voxels along a side", title="error in the interior")
    log.legend()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()

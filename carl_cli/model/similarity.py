"""How alike two images are, as losses: 0 is best.

Images (B, 1, *shape); an optional mask of the same shape limits where the loss is averaged, and
with `within` also what windows see.
Windows follow the published code: a Gaussian of width σ voxels cut at 2σ, zeros outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional

from carl_cli.errors import chosen
from carl_cli.model.blur import blur
from carl_cli.model.fields import cut, mean, summed

Similarity = Callable[..., Tensor]
NOISE_FLOOR = 1e-4  # of squared differences: noise of 1 % counts as no structure
VARIANCE_FLOOR = 1e-5  # for intensities in [0, 1]; keeps flat regions from dividing by zero


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean per sample over the mask's voxels, then over samples."""
    if mask is None:
        return mean(values)
    inside = (mask != 0).expand_as(values)
    return (summed(values * inside, 1) / summed(inside, 1).clamp_min(1)).mean()


def local_correlation(
    a: Tensor,
    b: Tensor,
    sigma: int,
    variance_floor: float = VARIANCE_FLOOR,
    seen: Tensor | None = None,
) -> Tensor:
    """(B, 1, *shape) correlation of two images inside a Gaussian window, in [-1, 1].

    seen: a mask of the images' shape; windows leave out what lies outside it.
    """
    if seen is not None:
        return _correlation_within(a, b, sigma, variance_floor, seen.to(a.dtype))
    # Apart, so that a backward pass to `a` alone blurs no gradients of b's moments.
    mean_a, aa, ab = blur(torch.cat([a, a * a, a * b], dim=1), sigma).chunk(3, dim=1)
    mean_b, bb = blur(torch.cat([b, b * b], dim=1), sigma).chunk(2, dim=1)
    return _correlation(mean_a, mean_b, aa, bb, ab, variance_floor)


def _correlation_within(
    a: Tensor, b: Tensor, sigma: int, variance_floor: float, seen: Tensor
) -> Tensor:
    share = blur(seen, sigma).clamp_min(1e-6)  # of the window; 0 only far from what is seen
    moments = (blur(seen * x, sigma) / share for x in (a, b, a * a, b * b, a * b))
    mean_a, mean_b, aa, bb, ab = moments
    return _correlation(mean_a, mean_b, aa, bb, ab, variance_floor)


def _correlation(
    mean_a: Tensor, mean_b: Tensor, aa: Tensor, bb: Tensor, ab: Tensor, variance_floor: float
) -> Tensor:
    """From the means in windows: of both, of their squares and of their product."""
    var_a = torch.relu(aa - mean_a**2) + variance_floor
    var_b = torch.relu(bb - mean_b**2) + variance_floor
    return (ab - mean_a * mean_b) / torch.sqrt(var_a * var_b)


def lncc(
    a: Tensor,
    b: Tensor,
    mask: Tensor | None = None,
    sigma: int = 4,
    variance_floor: float = VARIANCE_FLOOR,
    within: bool = False,
) -> Tensor:
    """1 - mean local correlation: same contrast. In [0, 2]."""
    seen = mask if within else None
    return 1 - masked_mean(local_correlation(a, b, sigma, variance_floor, seen), mask)


def squared_lncc(
    a: Tensor,
    b: Tensor,
    mask: Tensor | None = None,
    sigma: int = 4,
    variance_floor: float = VARIANCE_FLOOR,
    within: bool = False,
) -> Tensor:
    """1 - mean squared local correlation: contrast may be inverted. In [0, 1]."""
    seen = mask if within else None
    return 1 - masked_mean(local_correlation(a, b, sigma, variance_floor, seen) ** 2, mask)


def ncc(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - global correlation of each pair, averaged over the batch."""
    return 1 - masked_mean(_standardise(a, mask) * _standardise(b, mask), mask)


def _standardise(x: Tensor, mask: Tensor | None) -> Tensor:
    weight = torch.ones_like(x) if mask is None else (mask != 0).to(x.dtype)
    count = summed(weight, 2).clamp_min(1)

    def average(values: Tensor) -> Tensor:
        return (summed(values * weight, 2) / count).view(*x.shape[:2], *[1] * (x.dim() - 2))

    centred = x - average(x)
    return centred / average(centred**2).sqrt()


def mind_ssc(
    a: Tensor, b: Tensor, mask: Tensor | None = None, radius: int = 2, dilation: int = 2
) -> Tensor:
    """Mean squared difference of MIND-SSC descriptors: any two contrasts.

    Self-similarity context of Heinrich et al., MICCAI 2013.
    """
    gap = mind_descriptor(a, radius, dilation) - mind_descriptor(b, radius, dilation)
    return masked_mean(gap**2, mask)


def mind_descriptor(image: Tensor, radius: int, dilation: int) -> Tensor:
    """(B, 12, *shape), in 2D (B, 4, *shape): similarity of the diagonal pairs of a voxel's
    neighbours along the axes."""
    pairs = neighbour_pairs(image.dim() - 2)
    distance = torch.cat([_patch_distance(image, p, q, radius, dilation) for p, q in pairs], 1)
    distance = distance - distance.amin(1, keepdim=True)
    noise = distance.mean(1, keepdim=True)
    centre = mean(noise).detach()
    return torch.exp(-distance / noise.clamp(centre * 0.001, centre * 1000))


def self_similarity(
    image: Tensor, radius: int = 1, dilation: int = 1, floor: float = NOISE_FLOOR
) -> Tensor:
    """(B, 12, *shape), in 2D (B, 4, *shape): MIND-SSC of intensities in [0, 1] with a fixed floor
    of noise.

    Of a voxel's surroundings alone, unlike `mind_descriptor`, whose limits follow the whole
    image: moving the content of an image moves its channels. Computed without gradients.
    """
    distance = _patch_distances(image, radius, dilation)
    distance -= distance.amin(1, keepdim=True)
    return distance.div_(distance.mean(1, keepdim=True).clamp_min(floor)).neg_().exp_()


@torch.no_grad()
def _patch_distances(image: Tensor, radius: int, dilation: int) -> Tensor:
    """(B, pairs, *shape): mean over a patch of the squared differences of the neighbour_pairs.

    Pairs that lie in one direction are places of one volume: six volumes serve for twelve pairs.
    """
    margin, shape = radius + dilation, image.shape[2:]
    padded = functional.pad(image, [margin] * (2 * len(shape)), mode="replicate")
    means: dict[tuple[int, ...], Tensor] = {}
    pairs = neighbour_pairs(len(shape))
    distances = image.new_empty(len(image), len(pairs), *shape)
    for k, (p, q) in enumerate(pairs):
        start, gap = min((p, _between(p, q)), (q, _between(q, p)), key=lambda end: end[1])
        if gap not in means:
            means[gap] = _patch_mean(_gaps(padded, gap, dilation), radius)
        first = [dilation * (1 + s + min(g, 0)) for s, g in zip(start, gap, strict=True)]
        distances[:, k : k + 1] = cut(means[gap], _window(first, shape))
    return distances


def _between(p: tuple[int, ...], q: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(b - a for a, b in zip(p, q, strict=True))


def _gaps(padded: Tensor, gap: tuple[int, ...], dilation: int) -> Tensor:
    """Squared difference to the voxel that lies `gap` beside, where there is one."""
    sizes = [n - dilation * abs(g) for n, g in zip(padded.shape[2:], gap, strict=True)]
    here = cut(padded, _window([dilation * max(-g, 0) for g in gap], sizes))
    there = cut(padded, _window([dilation * max(g, 0) for g in gap], sizes))
    return (here - there).square_()


def _patch_mean(volume: Tensor, radius: int) -> Tensor:
    """Mean over patches, which are whole: `radius` voxels less on each side."""
    for axis in range(2, volume.dim()):
        inner = volume.shape[axis] - 2 * radius
        volume = sum(
            (volume.narrow(axis, k, inner) for k in range(1, 2 * radius + 1)),
            start=volume.narrow(axis, 0, inner),
        )
    return volume / (2 * radius + 1) ** (volume.dim() - 2)


def _window(first: Sequence[int], sizes: Sequence[int]) -> list[slice]:
    return [slice(start, start + n) for start, n in zip(first, sizes, strict=True)]


def squared_difference(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over voxels and channels of (a - b)²."""
    return masked_mean((a - b) ** 2, mask)


def soft_dice(a: Tensor, b: Tensor) -> Tensor:
    """1 - mean over channels of 2 Σ a b / (Σ a + Σ b): shares of labels, (1, C, *shape)."""
    both, either = summed(a * b, 2), summed(a, 2) + summed(b, 2)
    return 1 - (2 * both / either.clamp_min(1e-6)).mean()


Step = tuple[int, ...]


@cache
def neighbour_pairs(dimension: int) -> list[tuple[Step, Step]]:
    """Of a voxel's neighbours along the axes, those that lie diagonally to each other."""
    steps: list[Step] = [(-1, 0, 0), (0, 0, -1), (0, -1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0)]
    if dimension == 2:
        steps = [(-1, 0), (0, -1), (0, 1), (1, 0)]
    return [
        (p, q)
        for i, p in enumerate(steps)
        for q in steps[:i]
        if sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) == 2
    ]


def _patch_distance(
    image: Tensor, p: tuple[int, ...], q: tuple[int, ...], radius: int, dilation: int
) -> Tensor:
    """Mean over a patch of the squared difference between the image moved by p and by q."""
    around = 2 * (image.dim() - 2)
    padded = functional.pad(image, [dilation] * around, mode="replicate")
    gap = (_moved(padded, p, dilation) - _moved(padded, q, dilation)) ** 2
    patch = functional.pad(gap, [radius] * around, mode="replicate")
    average = functional.avg_pool3d if around == 6 else functional.avg_pool2d
    return average(patch, 2 * radius + 1, stride=1)


def _moved(padded: Tensor, step: tuple[int, ...], dilation: int) -> Tensor:
    window = [
        slice(dilation * (1 + s), dilation * (1 + s) + n - 2 * dilation)
        for s, n in zip(step, padded.shape[2:], strict=True)
    ]
    return cut(padded, window)


WINDOWED: dict[str, Similarity] = {"lncc": lncc, "lncc2": squared_lncc}
LOSSES: dict[str, Similarity] = {**WINDOWED, "mind": mind_ssc, "ncc": ncc}


def over_channels(similarity: Similarity, weights: Sequence[float]) -> Similarity:
    """The weighted mean of a loss over the channels of two images (B, C, *shape)."""
    if len(weights) == 1:
        return similarity

    def mean_of(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
        pairs = zip(a.split(1, dim=1), b.split(1, dim=1), strict=True)
        losses = [w * similarity(*pair, mask) for w, pair in zip(weights, pairs, strict=True)]
        return torch.stack(losses).sum()

    return mean_of


def by_name(
    name: str, sigma: int = 4, variance_floor: float = VARIANCE_FLOOR, within: bool = False
) -> Similarity:
    """The loss with this name; sigma is the window of the local correlations, in voxels,
    variance_floor what is added to the variances inside it, and with `within` it sees nothing of
    what a mask leaves out. Raises UsageError."""
    loss = chosen("similarity", name, LOSSES)
    if name in WINDOWED:
        return partial(loss, sigma=sigma, variance_floor=variance_floor, within=within)
    return loss

"""Which way the moving image is turned: rotations tried on Ξ's own matching score (Sec. 6.3).

Ξ is made for translations; beyond some 30 degrees its matches fade. So the moving image is
turned by a fixed set of rotations about its foreground, on a small grid; each is judged by how
well Ξ's features of the two images match, the best are refined by the rigid motion that is left
in their matches, and the best of these is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image
from carl_cli.io.resample import resample
from carl_cli.model.attention import CoordinateAttention
from carl_cli.model.coarse import attention_of, coarse_images
from carl_cli.preprocessing.pair import PreparedPair
from carl_cli.preprocessing.rule import PreprocessRule
from carl_cli.progress import Progress, silent
from carl_cli.registration.diffeomorphic import intensities
from carl_cli.transforms import AffineTransform, from_homogeneous, identity
from carl_cli.transforms.fitting import fit_points
from carl_cli.weights.folder import Weights

Floats = NDArray[np.float64]

SIDE = 48  # voxels a side, about, of the grid on which rotations are tried
PADDING = 2  # of Ξ on that grid, in its voxels: the two centres coincide already
QUERIES = 400  # fixed voxels of Ξ that judge a rotation
FOREGROUND = 0.05  # of the intensity range
STAGES = (16, 6, 2, 2)  # how many of the best are refined, again and again
SURE_VOXELS = 1.0  # spread below which a match counts as sure
GOLDEN = (1 + 5**0.5) / 2


def searched_rule(rule: PreprocessRule) -> PreprocessRule:
    """The same preprocessing on a grid of about 48 voxels a side."""
    if rule.shape_zyx is None:
        return rule.model_copy(update={"max_voxels": min(rule.max_voxels, SIDE**3)})
    scale = min(1.0, SIDE / max(rule.shape_zyx))
    shape = tuple(max(8, round(n * scale)) for n in rule.shape_zyx)
    return rule.model_copy(update={"shape_zyx": shape})


@torch.inference_mode()
def search_rotation(
    pair: PreparedPair, weights: Weights, progress: Progress = silent
) -> AffineTransform:
    """Rigid transform, fixed → moving, LPS mm, under which Ξ's features match best.

    pair: on the grids of `searched_rule`, without an initial transform. Weights whose coarse
    network is no coordinate attention can't be asked: see `attention_of`.
    """
    scorer = MatchScorer(pair, weights)
    turns = rotations(pair.fixed.grid.dimension)
    candidates = []
    for k, turn in enumerate(turns):
        candidates.append(scorer.candidate(scorer.about_centres(turn)))
        progress("rotations", (k + 1) / len(turns))
    for count in STAGES:
        best = sorted(candidates, key=lambda c: c.score, reverse=True)[:count]
        candidates = [max(c, scorer.candidate(c.refined), key=lambda c: c.score) for c in best]
    return max(candidates, key=lambda c: c.score).transform


@dataclass(frozen=True, eq=False)
class Candidate:
    """A rigid transform, fixed → moving, LPS mm, and what Ξ's matches under it say of it."""

    transform: AffineTransform
    score: float  # mean log of the sum of the match weights over the queries: higher is better
    # The transform followed by the rigid motion that the matches still show, its angle doubled:
    # matches of an image that is turned show less than half of the turn.
    refined: AffineTransform


class MatchScorer:
    """The fixed image's features, and where each of their voxels lies."""

    def __init__(self, pair: PreparedPair, weights: Weights) -> None:
        attention = attention_of(weights.network)
        assert attention is not None, "these weights have no coordinate attention"
        self.attention: CoordinateAttention = attention
        self.network = weights.network
        self.align_corners = weights.config.model.align_corners
        self.pair = pair
        self.moving = Image(pair.moving.array, pair.moving.grid)
        coarse = self._coarse(pair.fixed.array)
        seen = intensities(coarse, self.per_feature)
        self.shape = tuple(seen.shape[2:])
        self.rows = _spread(torch.nonzero(seen.flatten() > FOREGROUND).flatten(), QUERIES)
        inner = [slice(PADDING, -PADDING)] * len(self.shape)
        features = self._features(coarse)[0][(slice(None), *inner)]
        self.queries = attention.sharpness * features.flatten(1).T[self.rows]

    @property
    def per_feature(self) -> int:
        """Voxels of Ξ's images along each axis of one voxel of its features."""
        return self.attention.padding // self.attention.margin

    @cached_property
    def centres_mm(self) -> tuple[Floats, Floats]:
        """Middles of the two foregrounds."""
        return _centre_mm(self.pair.fixed.array, self.pair.fixed.grid), _centre_mm(
            self.pair.moving.array, self.pair.moving.grid
        )

    @cached_property
    def places_mm(self) -> Floats:
        """(M, D) of all keys, padding included, in the fixed image's space."""
        return _places_mm(self.pair.fixed.grid, self.shape, PADDING, self.align_corners)

    @cached_property
    def query_places_mm(self) -> Floats:
        places = _places_mm(self.pair.fixed.grid, self.shape, 0, self.align_corners)
        return places[self.rows.cpu().numpy()]

    def about_centres(self, turn: Floats) -> AffineTransform:
        fixed, moving = self.centres_mm
        return AffineTransform(turn, moving - turn @ fixed)

    def candidate(self, transform: AffineTransform) -> Candidate:
        seen = resample(self.moving, self.pair.fixed.grid, transform).array
        keys = self._features(self._coarse(seen))[0].flatten(1)
        logits = self.queries @ keys
        score = float(logits.logsumexp(1).mean())
        chance = logits.softmax(1).double().cpu().numpy()
        matches = chance @ self.places_mm
        variance = (chance @ self.places_mm**2 - matches**2).sum(1).clip(0)
        spacing = np.linalg.norm(self.places_mm[1] - self.places_mm[0])
        trust = (variance / spacing**2 + SURE_VOXELS**2) ** -2
        left = fit_points(self.query_places_mm, matches, trust, "rigid")
        centre = trust @ self.query_places_mm / trust.sum()
        turn = left.matrix @ left.matrix
        step = AffineTransform(turn, left(centre) - turn @ centre)
        refined = from_homogeneous(transform.homogeneous @ step.homogeneous)
        return Candidate(transform, score, refined)

    def _coarse(self, array: NDArray[np.generic]) -> Tensor:
        device = next(self.network.parameters()).device
        image = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None].to(device)
        return coarse_images(self.network, image)[0]

    def _features(self, coarse: Tensor) -> Tensor:
        """(1, C, *(shape + 2 PADDING))."""
        voxels = PADDING * self.per_feature
        features: Tensor = self.attention.encoder(pad(coarse, [voxels] * 2 * (coarse.dim() - 2)))
        return features


def _spread(values: Tensor, count: int) -> Tensor:
    """At most `count` of the values, evenly spread: no chance is involved."""
    places = torch.linspace(0, len(values) - 1, min(count, len(values)), device=values.device)
    return values[places.round().long()]


def _centre_mm(array: NDArray[np.float32], grid: Grid) -> Floats:
    """Middle of the voxels that are not background, each counted alike."""
    inside = array > FOREGROUND
    if not inside.any():
        return grid.centre_mm
    return np.asarray(grid.points_mm()[inside].mean(axis=0))


def _places_mm(grid: Grid, shape: tuple[int, ...], padding: int, align_corners: bool) -> Floats:
    """(N, D) LPS mm of the voxels of Ξ's grid, which has fewer voxels over the same extent."""
    axes = []
    for n, coarse in zip(grid.shape_zyx, shape, strict=True):
        index = np.arange(-padding, coarse + padding, dtype=float)
        ratio = (n - 1) / max(coarse - 1, 1) if align_corners else n / coarse
        axes.append(index * ratio if align_corners else (index + 0.5) * ratio - 0.5)
    index_zyx = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    return apply_affine(grid.index_to_lps, index_zyx[:, ::-1])


def rotations(dimension: int) -> list[Floats]:
    """Rotation matrices that cover all, the identity first.

    3D: the 24 right angles, among them what a wrong header does, and the 60 rotations of an
    icosahedron; 12 are in both. None is further than 45 degrees from one of these 72.
    2D: every 15 degrees.
    """
    if dimension == 2:
        angles = np.deg2rad(np.arange(0, 360, 15))
        return [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
    found: list[Floats] = [identity(3).matrix]
    for quaternion in (*_right_angles(), *_icosahedral()):
        matrix = _matrix(np.array(quaternion) / np.linalg.norm(quaternion))
        if not any(np.allclose(matrix, other, atol=1e-9) for other in found):
            found.append(matrix)
    return found


def _right_angles() -> list[tuple[float, ...]]:
    """Quaternions with entries 0, 1 and -1: one, two or four of them not 0."""
    return [q for q in product((0, 1, -1), repeat=4) if np.count_nonzero(q) in (1, 2, 4)]


def _icosahedral() -> list[tuple[float, ...]]:
    """Even permutations of (±golden, ±1, ±1/golden, 0); the rest are among the right angles."""
    even = [p for p in permutations(range(4)) if _is_even(p)]
    signs = product((1, -1), repeat=3)
    values = [(a * GOLDEN, b, c / GOLDEN, 0.0) for a, b, c in signs]
    return [tuple(v[k] for k in p) for p in even for v in values]


def _is_even(order: tuple[int, ...]) -> bool:
    swaps = sum(a > b for k, a in enumerate(order) for b in order[k + 1 :])
    return swaps % 2 == 0


def _matrix(q: Floats) -> Floats:
    """Rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )

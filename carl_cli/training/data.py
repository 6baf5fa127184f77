"""Where pairs come from: rendered, cached or given ones. Nothing here reads image files."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from carl_cli.errors import InputError
from carl_cli.system import usable_cores
from carl_cli.training.config import TrainConfig
from carl_cli.training.synthesis.appearance import recoloured
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair, PairSynthesiser
from carl_cli.training.synthesis.shapes import LabelMap, load_label_maps
from carl_cli.training.synthesis.warps import Shape
from carl_cli.training.tables import ImageData, ImageSet, RuntimeConfig, StageConfig, SyntheticData

VALIDATION_SEED = 1_000_003  # added to the seed of the run
MOST_HELD_OUT = 1000  # pairs of held-out images that a validation may ask for
Numbers = tuple[int, int, int]  # of a set, and of the fixed and the moving image in it


class PairSource(Protocol):
    def pair(self, index: int, /) -> Pair:
        """A pure function of the index: any order, any number of workers."""

    def __len__(self) -> int:
        """How many different pairs there are; a large number where they never end."""


class Given(NamedTuple):
    """Pairs that a program hands to `train`, for `data.kind = "given"`."""

    training: PairSource
    validation: PairSource | None = None  # None: nothing is measured


def training_pairs(config: TrainConfig, stage: StageConfig, device: torch.device) -> PairSource:
    """Source of a stage. Raises InputError for data that is missing or doesn't fit its grid."""
    data = config.data
    if isinstance(data, ImageData):
        return ImagePairs(data, read_cache(data, config.preprocess), stage, config.seed, device)
    assert isinstance(data, SyntheticData)
    maps = load_label_maps(data.maps, list(data.train)).values() if data.maps else ()
    return PairSynthesiser(config.synthesis(stage), list(maps), config.seed, device)


def validation_pairs(config: TrainConfig, stage: StageConfig, device: torch.device) -> PairSource:
    """Pairs never trained on: other subjects, other random shapes, held-out images."""
    data, seed = config.data, config.seed + VALIDATION_SEED
    if isinstance(data, ImageData):
        return HeldOutPairs(data, read_cache(data, config.preprocess), stage, seed, device)
    assert isinstance(data, SyntheticData)
    maps: list[LabelMap] = []
    if data.maps is not None and data.validation:
        maps = list(load_label_maps(data.maps, list(data.validation)).values())
    return PairSynthesiser(config.synthesis(stage), maps, seed, device)


class Batches:
    """Batch number n holds the pairs n·size … n·size + size - 1 of a source.

    ahead: a thread makes the batch that is asked for next (`stride` later) while the last one is
    learned from, if the runtime wants it, or if a core is free.
    """

    def __init__(self, source: PairSource, size: int, stride: int, runtime: RuntimeConfig) -> None:
        self.source, self.size, self.stride = source, size, stride
        free = usable_cores() > torch.get_num_threads()
        ahead = free if runtime.prefetch == "auto" else runtime.prefetch
        # One thread: sources keep what they drew last.
        self._maker = ThreadPoolExecutor(1) if ahead else None
        self._next: tuple[int, Future[list[Pair]]] | None = None

    def batch(self, number: int) -> list[Pair]:
        if self._maker is None:
            return self._made(number)
        if self._next is None or self._next[0] != number:
            self._next = (number, self._maker.submit(self._made, number))
        pairs = self._next[1].result()
        following = number + self.stride
        self._next = (following, self._maker.submit(self._made, following))
        return pairs

    def _made(self, number: int) -> list[Pair]:
        return [self.source.pair(number * self.size + k) for k in range(self.size)]


@dataclass(frozen=True)
class CachedSet:
    """Images (D, H, W) float16, their labels and masks (None: it has none), mapped from disk;
    pairs that a table named (none: all against all)."""

    images: list[NDArray[np.float16]]
    labels: list[NDArray[np.uint16] | None]
    masks: list[NDArray[np.bool_] | None]
    pairs: list[tuple[int, int]]


def index_name(data: ImageData, preprocess: dict[str, Any]) -> Path:
    """The file of the cache that lists what these sets consist of."""
    sources = [(s.images, s.segmentations, s.masks, s.modality) for s in data.sets]
    text = json.dumps([sources, preprocess], default=str, sort_keys=True)
    return data.cache / f"index-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def read_cache(data: ImageData, preprocess: dict[str, Any]) -> list[CachedSet]:
    """Made by `carl_cli.training.cache`. Raises InputError if it was not, or not for this."""
    index = index_name(data, preprocess)
    if not index.is_file():
        raise InputError(f"{data.cache} does not hold these images", "`carl train` makes the cache")
    try:
        return [_cached(data.cache, one) for one in json.loads(index.read_text())]
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{data.cache}: the cache is damaged ({error})",
            "delete it where the images are: it is made again",
        ) from error


def _cached(cache: Path, one: dict[str, Any]) -> CachedSet:
    return CachedSet(
        [np.load(cache / f"{f}.npy", mmap_mode="r") for f in one["files"]],
        [_if_there(cache / f"{f}-labels.npy") for f in one["files"]],
        [_if_there(cache / f"{f}-mask.npy") for f in one["files"]],
        [(i, j) for i, j in one["pairs"]],
    )


def _if_there(path: Path) -> NDArray[Any] | None:
    return np.load(path, mmap_mode="r") if path.is_file() else None


class ImagePairs:
    """Pairs of cached images, centred on the grid of the stage and augmented (GradICON)."""

    def __init__(
        self,
        data: ImageData,
        cached: list[CachedSet],
        stage: StageConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.data, self.cached = data, cached
        self.seed, self.device = seed, device
        self.shape_zyx = _grid_for(cached, stage)

    def __len__(self) -> int:
        return sum(map(_training_count, self.data.sets, self.cached))

    @torch.no_grad()
    def pair(self, index: int) -> Pair:
        chance = Chance(self.seed, "images", index, device=self.device)
        which = self._drawn(chance)
        turn = _random_turn(chance) if self.data.flips else torch.eye(3)
        grids = [self._random_grid(chance, turn) for _ in "12"]
        pair = self._made(which, grids)
        if not chance.coin(self.data.recolour):
            return pair
        fixed, moving = recoloured(chance, pair.fixed, pair.moving, pair.contrast == "same")
        return replace(pair, fixed=fixed, moving=moving)

    def _drawn(self, chance: Chance) -> Numbers:
        """A set by its weight, and two of its images that are not held out."""
        usable = [one.weight * (_training_count(one, c) > 0) for one, c in self._sets()]
        if not any(usable):
            raise InputError(
                f"{len(self.cached[0].images)} images make no training pair", "add images"
            )
        number = chance.choose(usable)
        images, cached = self.data.sets[number], self.cached[number]
        if cached.pairs:
            i, j = cached.pairs[chance.integer(0, len(cached.pairs) - images.held_out - 1)]
            return (number, j, i) if chance.coin(0.5) else (number, i, j)
        count = len(cached.images) - images.held_out
        i, apart = chance.integer(0, count - 1), chance.integer(1, count - 1)
        return number, i, (i + apart) % count

    def _sets(self) -> Iterator[tuple[ImageSet, CachedSet]]:
        return zip(self.data.sets, self.cached, strict=True)

    def _random_grid(self, chance: Chance, turn: Tensor) -> Tensor | None:
        """(1, D, H, W, 3) places for grid_sample; None: the voxels where they are."""
        if not self.data.flips and not self.data.affine_noise:
            return None
        matrix = torch.cat([turn, torch.zeros(3, 1)], dim=1).to(self.device)
        matrix = matrix + chance.normal(3, 4) * self.data.affine_noise
        return affine_grid(matrix[None], [1, 1, *self.shape_zyx], align_corners=False)

    def _made(self, which: Numbers, grids: list[Tensor | None]) -> Pair:
        number, i, j = which
        cached, contrast = self.cached[number], self.data.sets[number].contrast
        fixed, moving = (
            self._placed(cached.images[k], grid, "bilinear")
            for k, grid in zip((i, j), grids, strict=True)
        )
        places = list(zip((i, j), grids, strict=True))
        a, b = (self._belonging(cached.labels[k], grid, 0).round().long() for k, grid in places)
        seen, there = (self._belonging(cached.masks[k], grid, 1) > 0.5 for k, grid in places)
        return Pair(fixed, moving, a, b, seen, there, contrast, real=True)

    def _belonging(self, array: NDArray[Any] | None, grid: Tensor | None, absent: int) -> Tensor:
        if array is None:
            return torch.full((1, 1, *self.shape_zyx), float(absent), device=self.device)
        return self._placed(array, grid, "nearest")

    def _placed(self, array: NDArray[Any], grid: Tensor | None, mode: str) -> Tensor:
        values = torch.from_numpy(np.array(array, dtype=np.float32))
        image = _centred(values, self.shape_zyx)[None, None].to(self.device)
        if grid is None:
            return image
        return grid_sample(image, grid, mode, padding_mode="border", align_corners=False)


class HeldOutPairs(ImagePairs):
    """Pairs of held-out images, as they are. One that is alone is paired with those trained on."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        numbered = enumerate(self._sets())
        self.held_out = [(k, i, j) for k, (s, c) in numbered for i, j in _held_out(s, c)]
        # Sets and people in turn: a validation takes the first of them.
        random.Random(0).shuffle(self.held_out)

    def __len__(self) -> int:
        return len(self.held_out)

    def pair(self, index: int) -> Pair:
        return self._made(self.held_out[index % len(self.held_out)], [None, None])


def _grid_for(cached: list[CachedSet], stage: StageConfig) -> Shape:
    """The stage's own grid, or one that holds all images. Raises InputError if they don't fit."""
    shapes = [image.shape for one in cached for image in one.images]
    z, y, x = (max(axis) for axis in zip(*shapes, strict=True))
    wanted = stage.shape_zyx or (z, y, x)
    if any(n > m for n, m in zip((z, y, x), wanted, strict=True)):
        grid = "×".join(map(str, wanted))
        raise InputError(
            f"stage {stage.name}: images of up to {z}×{y}×{x} voxels, its grid has {grid}",
            "make shape_zyx larger, or max_voxels of [preprocess] smaller",
        )
    return wanted


def _training_count(images: ImageSet, cached: CachedSet) -> int:
    """How many ordered pairs a set has for training."""
    if cached.pairs:
        return 2 * max(0, len(cached.pairs) - images.held_out)
    count = max(0, len(cached.images) - images.held_out)
    return count * (count - 1)


def _held_out(images: ImageSet, cached: CachedSet) -> list[tuple[int, int]]:
    held, count = images.held_out, len(cached.images)
    if not held:
        return []
    if cached.pairs:
        return cached.pairs[-held:]
    if held == 1:
        return [pair for k in range(count - 1) for pair in ((k, count - 1), (count - 1, k))]
    first, others = max(0, count - held), min(held, count) - 1
    numbers = range(others * (others + 1))
    kept = random.Random(0).sample(numbers, min(len(numbers), MOST_HELD_OUT))
    return [(first + n // others, first + n % others + (n % others >= n // others)) for n in kept]


def _random_turn(chance: Chance) -> Tensor:
    """(3, 3) permutation of the axes with random signs."""
    signs = torch.tensor([1.0 if chance.coin(0.5) else -1.0 for _ in range(3)])
    return torch.eye(3)[chance.permutation(3)] * signs[:, None]


def _centred(array: Tensor, shape: Shape) -> Tensor:
    """Zeros added evenly on both sides of each axis."""
    missing = [n - m for n, m in zip(shape, array.shape, strict=True)]
    sides = [(m // 2, m - m // 2) for m in missing]
    return pad(array, [side for pair in reversed(sides) for side in pair])

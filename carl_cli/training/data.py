"""Where pairs come from: rendered ones, or cached images. Nothing here reads image files."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from carl_cli.errors import InputError
from carl_cli.training.config import ImageData, StageConfig, TrainConfig
from carl_cli.training.synthesis.chance import Chance
from carl_cli.training.synthesis.pairs import Pair, PairSynthesiser
from carl_cli.training.synthesis.shapes import LabelMap, load_label_maps
from carl_cli.training.synthesis.warps import Shape

VALIDATION_SEED = 1_000_003  # added to the seed of the run


class PairSource(Protocol):
    def pair(self, index: int) -> Pair:
        """A pure function of the index: any order, any number of workers."""


def training_pairs(config: TrainConfig, stage: StageConfig, device: torch.device) -> PairSource:
    """Source of a stage. Raises InputError for data that is missing."""
    data = config.data
    if isinstance(data, ImageData):
        return _image_pairs(data, stage, config.seed, device, held_out=False)
    maps = load_label_maps(data.maps, list(data.train)).values() if data.maps else ()
    return PairSynthesiser(config.synthesis(stage), list(maps), config.seed, device)


def validation_pairs(config: TrainConfig, stage: StageConfig, device: torch.device) -> PairSource:
    """Pairs never trained on: other subjects, other random shapes, held-out images."""
    data, seed = config.data, config.seed + VALIDATION_SEED
    if isinstance(data, ImageData):
        return _image_pairs(data, stage, seed, device, held_out=True)
    maps: list[LabelMap] = []
    if data.maps is not None and data.validation:
        maps = list(load_label_maps(data.maps, list(data.validation)).values())
    return PairSynthesiser(config.synthesis(stage), maps, seed, device)


def _image_pairs(
    data: ImageData, stage: StageConfig, seed: int, device: torch.device, held_out: bool
) -> ImagePairs:
    arrays, pairs = read_cache(data.cache)
    kept, last = (pairs, len(pairs)) if pairs else ([], len(arrays))
    cut = last - data.held_out
    if pairs:
        kept = kept[cut:] if held_out else kept[:cut]
    else:
        numbers = range(cut, last) if held_out else range(cut)
        kept = [(i, j) for i in numbers for j in numbers if i != j]
    if not kept and not held_out:
        raise InputError(f"{data.cache}: {len(arrays)} images make no training pair", "add images")
    augment = (data.flips, data.affine_noise) if not held_out else (False, 0.0)
    return ImagePairs(arrays, kept, stage.shape_zyx, seed, device, *augment)


def read_cache(folder: Path) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Images (D, H, W) float16 in [0, 1], mapped from disk, and the pairs that a table
    named (empty: all against all). Made by `carl_cli.training.cache`."""
    files = sorted(folder.glob("image-*.npy"))
    if not files:
        raise InputError(f"{folder} holds no cached images", "`carl train` makes the cache")
    table = folder / "pairs.npy"
    pairs = [(int(i), int(j)) for i, j in np.load(table)] if table.is_file() else []
    return [np.load(f, mmap_mode="r") for f in files], pairs


class ImagePairs:
    """Pairs of cached images, centred on the grid of the stage and augmented (GradICON)."""

    def __init__(
        self,
        arrays: list[np.ndarray],
        pairs: list[tuple[int, int]],
        shape_zyx: Shape,
        seed: int,
        device: torch.device,
        flips: bool,
        affine_noise: float,
    ) -> None:
        self.arrays, self.pairs, self.shape_zyx = arrays, pairs, shape_zyx
        self.seed, self.device = seed, device
        self.flips, self.affine_noise = flips, affine_noise

    def __len__(self) -> int:
        return len(self.pairs)

    @torch.no_grad()
    def pair(self, index: int) -> Pair:
        chance = Chance(self.seed, "images", index, device=self.device)
        which = self.pairs[chance.integer(0, len(self.pairs) - 1)]
        if chance.coin(0.5):
            which = (which[1], which[0])
        turn = _random_turn(chance) if self.flips else torch.eye(3)
        fixed, moving = (self._augmented(chance, self._image(k), turn) for k in which)
        seen = torch.ones_like(fixed, dtype=torch.bool)
        none = torch.zeros_like(fixed, dtype=torch.int64)
        return Pair(fixed, moving, none, none, seen, seen, "same", real=True)

    def _image(self, number: int) -> Tensor:
        array = torch.from_numpy(np.array(self.arrays[number], dtype=np.float32))
        return _centred(array, self.shape_zyx)[None, None].to(self.device)

    def _augmented(self, chance: Chance, image: Tensor, turn: Tensor) -> Tensor:
        if not self.flips and not self.affine_noise:
            return image
        matrix = torch.cat([turn, torch.zeros(3, 1)], dim=1).to(image.device)
        matrix = matrix + chance.normal(3, 4) * self.affine_noise
        grid = affine_grid(matrix[None], list(image.shape), align_corners=False)
        return grid_sample(image, grid, padding_mode="border", align_corners=False)


def _random_turn(chance: Chance) -> Tensor:
    """(3, 3) permutation of the axes with random signs."""
    signs = torch.tensor([1.0 if chance.coin(0.5) else -1.0 for _ in range(3)])
    return torch.eye(3)[chance.permutation(3)] * signs[:, None]


def _centred(array: Tensor, shape: Shape) -> Tensor:
    """Zeros added, or voxels cut, evenly on both sides of each axis."""
    missing = [n - m for n, m in zip(shape, array.shape, strict=True)]
    sides = [(m // 2, m - m // 2) for m in missing]
    return pad(array, [side for pair in reversed(sides) for side in pair])

"""Templates of rendered brains: carl beside antspyx's build_template, and pairs through a template
beside pairs that were registered to each other.

    python benchmarks/template.py [--only ants|pairs|lungs] [--rounds 3] [--spacing 4]

ants: five brains, both programs on the same files in one run. Seconds of one thread's processor,
start and reading included. Dice is the mean over all pairs of images and all structures, labels
being carried to the template; for ANTs, whose function gives no transforms, by one more
registration of each image, which does not count. Sharpness is the mean squared gradient over the
variance, 1000 / mm².

pairs: ten brains; labels of each on every earlier one, through the template and directly. The mean
displacement of the maps, and what is left of it without the poses (rotation and shift of each map,
Kabsch's), is its mean over the brighter half of the template, in mm. With them it holds what turns
make of the shapes, which is no bias: the mean pose beside it tells whether turns and shifts cancel.
Sharpness is set beside the mean of the images after affine registration. A second template starts
from another image; the two are compared in the brighter half after an affine registration of ANTs.
Seconds are for all 10 images and all 45 pairs.

lungs: the same of three people's lungs in MR, as they are, whatever the spacing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from itertools import combinations
from pathlib import Path

import ants
import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parents[1]))  # `benchmarks` itself, however this is run

from benchmarks.contest.brains import rendered
from benchmarks.contest.contenders import ONE_THREAD
from benchmarks.measure import process_cost, table
from carl_cli.workflows.template import Member, nearest_to_mean

DATA = Path(os.environ.get("CARL_TEST_DATA", "../shared/data"))
FIVE, TEN = 5, 10
ANTS = """
import sys, ants
ants.config.set_ants_deterministic(False, 1)
target, rounds, *paths = sys.argv[1:]
images = [ants.image_read(path) for path in paths]
made = ants.build_template(image_list=images, iterations=int(rounds), type_of_transform="SyN")
ants.image_write(made, target)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(PARTS), help="one of the tables")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spacing", type=float, default=4.0, help="mm")
    arguments = parser.parse_args()
    for part in [arguments.only] if arguments.only else PARTS:
        with tempfile.TemporaryDirectory() as scratch:
            PARTS[part](Path(scratch), arguments.rounds, arguments.spacing)


def _beside_ants(folder: Path, rounds: int, spacing_mm: float) -> None:
    names = _render(folder, spacing_mm, FIVE)
    rows = [maker(folder, names, rounds) for maker in (_by_carl, _by_ants)]
    print(table("Template of five brains", ("", "CPU seconds", "Dice", "sharpness"), rows))
    print(f"carl takes {rows[0][1] / rows[1][1]:.2f} of the time of ANTs")


def _brains(folder: Path, rounds: int, spacing_mm: float) -> None:
    _beside_pairs(folder, _render(folder, spacing_mm, TEN), rounds)


def _lungs(folder: Path, rounds: int, _: float) -> None:
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    paths = sorted((DATA / "lung_mr_lobes").glob("????.nii.gz"))
    for path in paths:
        shutil.copy(path, folder / "images")
        lobes = sitk.ReadImage(str(path.with_name(f"{_case(path.name)}_seg.nii.gz")))
        sitk.WriteImage(sitk.Cast(lobes, sitk.sitkUInt8), str(folder / "labels" / path.name))
    _beside_pairs(folder, [path.name for path in paths], rounds)


def _beside_pairs(folder: Path, names: list[str], rounds: int) -> None:
    seconds = _template(folder, rounds)
    pairs = [(fixed, moving) for moving, fixed in combinations(names, 2)]
    through = [_pair_dice(folder, *pair, _through(folder, *pair)) for pair in pairs]
    maps = [_to_template(folder, name) for name in names]
    target, affine = folder / "carl.nii.gz", folder / "affine.nii.gz"
    sitk.WriteImage(_affine_mean(folder, names, maps), str(affine))
    _tell_bias(target, maps)
    print(f"sharpness {_sharpness(target):.3g}, after affine maps {_sharpness(affine):.3g}")
    print(f"correlation with another start {_other_start(folder, names, rounds):.4f}", flush=True)
    direct_seconds, direct = _direct(folder, pairs)
    rows = [("template", seconds, np.mean(through)), ("direct", direct_seconds, np.mean(direct))]
    print(table(f"Pairs of {len(names)} images", ("", "CPU seconds", "Dice"), rows))


PARTS = {"ants": _beside_ants, "pairs": _brains, "lungs": _lungs}


def _render(folder: Path, spacing_mm: float, count: int) -> list[str]:
    """Images and labels of the first people, coarser than they are."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    paths = sorted((DATA / "brain_label_maps").glob("*.nii.gz"))[:count]
    for seed, path in enumerate(paths):
        image, labels = rendered(path, seed)
        grid = _coarser(image, spacing_mm)
        smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), spacing_mm / 2)
        small = sitk.Resample(smooth, grid, sitk.Transform(), sitk.sitkLinear)
        sitk.WriteImage(small, str(folder / "images" / path.name))
        known = sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        sitk.WriteImage(sitk.Cast(known, sitk.sitkUInt8), str(folder / "labels" / path.name))
    return [path.name for path in paths]


def _coarser(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    size = [
        round(n * s / spacing_mm) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    return grid


def _by_carl(folder: Path, names: list[str], rounds: int) -> tuple[str, float, float, float]:
    seconds, target = _template(folder, rounds), folder / "carl.nii.gz"
    grid = sitk.ReadImage(str(target))
    carried = [_labels(folder, name, grid, _to_template(folder, name)) for name in names]
    return "carl", seconds, _dice(carried), _sharpness(target)


def _template(folder: Path, rounds: int, name: str = "carl", *more: str) -> float:
    """Seconds of the processor."""
    line = [sys.executable, "-m", "carl_cli.cli.app", "template", str(folder / "images"), "-q"]
    line += ["-o", str(folder / f"{name}.nii.gz"), "--rounds", str(rounds), "--threads", "1"]
    return process_cost([*line, *more], ONE_THREAD).cpu_seconds


def _other_start(folder: Path, names: list[str], rounds: int) -> float:
    """Correlation of the template with the one that starts from the first other image."""
    members = [Member(name, folder / "images" / name) for name in names]
    chosen = nearest_to_mean(members)
    other = next(member.image for member in members if member != chosen)
    _template(folder, rounds, "other", "--initial", str(other))
    made, again = (ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("carl", "other"))
    seen = ants.registration(made, again, type_of_transform="Affine")["warpedmovout"].numpy()
    inside = made.numpy() > made.numpy().mean()
    return float(np.corrcoef(made.numpy()[inside], seen[inside])[0, 1])


def _to_template(folder: Path, name: str) -> sitk.Transform:
    """Template points → points of the image."""
    file = f"from-{_case(name)}_to-template_mode-image_xfm.h5"
    return sitk.ReadTransform(str(folder / "carl_transforms" / file))


def _case(name: str) -> str:
    return name.removesuffix(".nii.gz")


def _labels(folder: Path, name: str, grid: sitk.Image, there: sitk.Transform) -> np.ndarray:
    labels = sitk.ReadImage(str(folder / "labels" / name))
    return sitk.GetArrayFromImage(sitk.Resample(labels, grid, there, sitk.sitkNearestNeighbor))


def _through(folder: Path, fixed: str, moving: str) -> sitk.Transform:
    """Points of the fixed image → the template → the moving one."""
    file = f"from-template_to-{_case(fixed)}_mode-image_xfm.h5"
    first = sitk.ReadTransform(str(folder / "carl_transforms" / file))
    return sitk.CompositeTransform([_to_template(folder, moving), first])


def _pair_dice(folder: Path, fixed: str, moving: str, transform: sitk.Transform) -> float:
    own = sitk.ReadImage(str(folder / "labels" / fixed))
    return _dice([sitk.GetArrayFromImage(own), _labels(folder, moving, own, transform)])


def _direct(folder: Path, pairs: list[tuple[str, str]]) -> tuple[float, list[float]]:
    """Seconds of the processor of one batch, and the Dice of each pair."""
    rows = [f"{f}_{m},images/{f},images/{m}" for f, m in pairs]
    (folder / "pairs.csv").write_text("\n".join(["id,fixed,moving", *rows]) + "\n")
    line = [sys.executable, "-m", "carl_cli.cli.app", "batch", str(folder / "pairs.csv"), "-q"]
    line += ["-o", str(folder / "direct"), "--no-warped", "--threads", "1"]
    seconds = process_cost(line, ONE_THREAD).cpu_seconds
    found = []
    for fixed, moving in pairs:
        (path,) = (folder / "direct" / f"{fixed}_{moving}").glob(f"from-{_case(moving)}*.h5")
        found.append(_pair_dice(folder, fixed, moving, sitk.ReadTransform(str(path))))
    return seconds, found


def _tell_bias(target: Path, maps: list[sitk.Transform]) -> None:
    """Mean displacement of the maps, with and without their poses, and the mean pose."""
    points = _foreground(target)
    images = [_mapped(map_, points) for map_ in maps]
    turns = [_turn(image, points) for image in images]
    middle = points.mean(axis=0)
    posed = [
        (image - image.mean(axis=0)) @ turn + middle
        for image, turn in zip(images, turns, strict=True)
    ]
    plain, rest = (np.mean(seen, axis=0) - points for seen in (images, posed))
    plain_mm, rest_mm = (np.linalg.norm(left, axis=1).mean() for left in (plain, rest))
    print(f"mean displacement {plain_mm:.3f} mm, without poses {rest_mm:.3f} mm")
    mean_turn = Rotation.from_matrix(turns).as_rotvec(degrees=True).mean(axis=0)
    shift_mm, degrees = np.linalg.norm(plain.mean(axis=0)), np.linalg.norm(mean_turn)
    print(f"mean pose {degrees:.4f} degrees, {shift_mm:.4f} mm", flush=True)


def _foreground(target: Path) -> np.ndarray:
    """(N, 3) LPS mm, every second voxel along each axis that is brighter than the mean."""
    image = sitk.ReadImage(str(target))
    values = sitk.GetArrayFromImage(image)
    zyx = np.argwhere(values > values.mean())
    zyx = zyx[(zyx % 2 == 0).all(axis=1)]
    return np.array([image.TransformIndexToPhysicalPoint(p[::-1].tolist()) for p in zyx])


def _mapped(map_: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([map_.TransformPoint(point) for point in points.tolist()])


def _turn(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(3, 3), the rotation that brings the points, shifted, as near to their images as it can."""
    centred, own = image - image.mean(axis=0), points - points.mean(axis=0)
    u, _, vt = np.linalg.svd(own.T @ centred)
    return (u @ vt).T


def _affine_mean(folder: Path, names: list[str], maps: list[sitk.Transform]) -> sitk.Image:
    """Of the images, seen through the affine transforms nearest to the maps."""
    points = _foreground(folder / "carl.nii.gz")
    design = np.hstack([points, np.ones((len(points), 1))])
    grid, seen = sitk.ReadImage(str(folder / "carl.nii.gz")), []
    for name, map_ in zip(names, maps, strict=True):
        solution = np.linalg.lstsq(design, _mapped(map_, points), rcond=None)[0]
        affine = sitk.AffineTransform(solution[:3].T.ravel().tolist(), solution[3].tolist())
        image = sitk.ReadImage(str(folder / "images" / name), sitk.sitkFloat32)
        seen.append(sitk.Resample(image, grid, affine, sitk.sitkLinear))
    return sum(seen[1:], seen[0]) / len(seen)


def _by_ants(folder: Path, names: list[str], rounds: int) -> tuple[str, float, float, float]:
    target = folder / "ants.nii.gz"
    images = [str(folder / "images" / name) for name in names]
    line = [sys.executable, "-c", ANTS, str(target), str(rounds), *images]
    seconds = process_cost(line, ONE_THREAD).cpu_seconds
    grid = ants.image_read(str(target))
    carried = []
    for name in names:
        image = ants.image_read(str(folder / "images" / name))
        labels = ants.image_read(str(folder / "labels" / name))
        found = ants.registration(grid, image, type_of_transform="SyN")["fwdtransforms"]
        seen = ants.apply_transforms(grid, labels, found, interpolator="nearestNeighbor")
        carried.append(seen.numpy())
    return "ANTs", seconds, _dice(carried), _sharpness(target)


def _dice(carried: list[np.ndarray]) -> float:
    """Mean over pairs and structures that one of the two has."""
    found = []
    for a, b in combinations(carried, 2):
        for value in np.setdiff1d(np.union1d(a, b), 0):
            one, other = a == value, b == value
            found.append(2 * np.sum(one & other) / (one.sum() + other.sum()))
    return float(np.mean(found))


def _sharpness(path: Path) -> float:
    image = sitk.ReadImage(str(path), sitk.sitkFloat64)
    values = sitk.GetArrayFromImage(image)
    slopes = np.gradient(values, *image.GetSpacing()[::-1])
    return 1000 * float(np.mean(sum(slope**2 for slope in slopes)) / values.var())


if __name__ == "__main__":
    main()

"""A lesion planted in a real T1 that is bent by a known map, and left out by a mask."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from carl_cli.io.images.files import Image
from carl_cli.io.sitk_bridge import grid_of
from carl_cli.registration.register import RegistrationOptions, register
from carl_cli.transforms import DisplacementField, Transform, jacobian_determinant
from carl_cli.weights.folder import Weights
from carl_cli.weights.locate import chosen_weights

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]
MM = 2.0
RADIUS_MM, MARGIN_MM = 18.0, 4.0  # of the lesion; of the mask around it, whose edge is soft
WAVE_MM = 90.0  # of the bend, several times the lesion: what lies in it, its surroundings tell


class Pair(NamedTuple):
    """A brain, the same one bent, and the map of the bent one's points to the brain's."""

    healthy: Image
    bent: Image
    true: DisplacementField


def _image(picture: sitk.Image) -> Image:
    return Image(sitk.GetArrayFromImage(picture), grid_of(picture))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return chosen_weights("carl-base", "cpu")


@pytest.fixture(scope="module")
def pair(real_data_dir: Path) -> Pair:
    whole = sitk.ReadImage(str(real_data_dir / "brain_t1/image_A.nii.gz"), sitk.sitkFloat32)
    healthy = sitk.BinShrink(whole, [int(MM)] * 3)
    grid = grid_of(healthy)
    phase = (grid.points_mm() - grid.centre_mm) / WAVE_MM * 2 * np.pi
    moved = 5.0 * np.sin(phase[..., [1, 2, 0]] + 0.7) + 2.0 * np.sin(phase + 0.3)
    bend = sitk.GetImageFromArray(moved, isVector=True)
    bend.CopyInformation(healthy)
    bent = sitk.Resample(healthy, healthy, sitk.DisplacementFieldTransform(bend))
    return Pair(_image(healthy), _image(bent), DisplacementField(grid, moved))


def _planted(
    image: Image, beside_mm: tuple[float, ...], share: float
) -> tuple[Image, Image, Floats]:
    """The image with a ball of this share of its brightest, its mask, and the ball's distances."""
    distance = np.linalg.norm(image.grid.points_mm() - image.grid.centre_mm - beside_mm, axis=-1)
    soft = 1 / (1 + np.exp(distance - RADIUS_MM))
    value = share * np.percentile(image.array, 99)
    usable = (distance > RADIUS_MM + MARGIN_MM).astype(np.uint8)
    lesion = (image.array * (1 - soft) + value * soft).astype(np.float32)
    return Image(lesion, image.grid), Image(usable, image.grid), distance


@pytest.mark.parametrize(
    ("side", "beside_mm", "share"),
    [("fixed", (26.0, 10.0, 18.0), 1.3), ("moving", (-28.0, 18.0, 10.0), 0.1)],
)
def test_a_masked_lesion_keeps_its_volume_in_a_t1(
    pair: Pair, weights: Weights, side: str, beside_mm: tuple[float, ...], share: float
) -> None:
    """Within 5 % of what the map without a lesion makes of it; elsewhere as near to the known
    map, within a tenth of a voxel, as that one."""
    lesion, usable, distance = _planted(pair.bent, beside_mm, share)
    inside = distance < RADIUS_MM
    brain = (pair.bent.array > 0.1 * pair.bent.array.max()) & (usable.array > 0)
    points = pair.bent.grid.points_mm()[brain]

    def found(bent: Image, **options: Image) -> tuple[float, float]:
        """The lesion's volume as a share of the true one, and the mean error elsewhere in mm."""
        images = (bent, pair.healthy) if side == "fixed" else (pair.healthy, bent)
        result = register(*images, weights, RegistrationOptions(**options))
        map_: Transform = result.forward if side == "fixed" else result.backward
        volumes = [jacobian_determinant(t, bent.grid)[inside].sum() for t in (map_, pair.true)]
        error = np.linalg.norm(map_(points) - pair.true(points), axis=-1).mean()
        return float(volumes[0] / volumes[1]), float(error)

    kept, around = found(lesion, **{f"{side}_mask": usable})
    changed, pulled = found(lesion)
    without, least = found(pair.bent)
    print(f"volume {kept:.3f}, {around:.2f} mm around; no mask {changed:.3f}, {pulled:.2f} mm")
    print(f"no lesion {without:.3f}, {least:.2f} mm")
    assert kept == pytest.approx(without, rel=0.05)
    assert abs(changed / without - 1) > 0.3
    assert around < least + 0.1 * MM

"""One transform for each volume of a series in one file: ITK's list of transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.io.transforms.chain import parse_series
from carl_cli.io.transforms.files import (
    read_series,
    read_transform,
    write_series,
    write_transform,
)
from carl_cli.transforms import AffineTransform, CompositeTransform, DisplacementField, Transform
from carl_cli.transforms.linear import RigidTransform
from tests.conftest import make_grid, rotation

POINTS = np.random.default_rng(1).uniform(-6, 6, (50, 3))
GRID = make_grid((9, 8, 7), (2.0, 3.0, 4.0))


def transforms() -> list[Transform]:
    rigid = RigidTransform(rotation((3, 2, 1)), np.array([1.0, 2, 3]))
    affine = AffineTransform(np.diag([1.1, 0.9, 1.0]), np.ones(3))
    vectors = np.random.default_rng(0).normal(0, 0.2, (*GRID.shape_zyx, 3)).astype(np.float32)
    return [rigid, affine, CompositeTransform((rigid, DisplacementField(GRID, vectors)))]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_series(tmp_path / "motion.h5", transforms())
    return tmp_path / "motion.h5"


@pytest.mark.slow
def test_itk_reads_the_list(written: Path) -> None:
    """itk.transformread gives all of them, each the same map."""
    itk = pytest.importorskip("itk")
    read = itk.transformread(str(written))
    assert len(read) == 3
    for theirs, ours in zip(read, transforms(), strict=True):
        found = np.array([theirs.TransformPoint(point.tolist()) for point in POINTS])
        np.testing.assert_allclose(found, ours(POINTS), atol=1e-5)


def test_the_layout_is_itks(written: Path) -> None:
    """By h5py: groups from 0 on, no composite above them."""
    import h5py

    with h5py.File(written, "r") as file:
        groups = file["TransformGroup"]
        types = [groups[str(k)]["TransformType"].asstr()[0] for k in range(len(groups))]
        euler = groups["0/TransformParameters"][()]
    assert [name.partition("_")[0] for name in types] == [
        "Euler3DTransform", "AffineTransform", "DisplacementFieldTransform",
    ]  # fmt: skip
    theirs = sitk.Euler3DTransform((0.0, 0, 0), *euler[:3].tolist(), euler[3:].tolist())
    found = np.array([theirs.TransformPoint(point.tolist()) for point in POINTS])
    np.testing.assert_allclose(found, transforms()[0](POINTS), atol=1e-9)


def test_it_comes_back(written: Path) -> None:
    read = read_series(written)
    assert [type(each).__name__ for each in read] == [
        "RigidTransform", "AffineTransform", "DisplacementField",
    ]  # fmt: skip
    for found, true in zip(read, transforms(), strict=True):
        np.testing.assert_allclose(found(POINTS), true(POINTS), atol=1e-5)


def test_it_is_not_taken_for_one_transform(written: Path) -> None:
    """SimpleITK takes the first with a warning that nobody sees."""
    assert "Euler3D" in sitk.ReadTransform(str(written)).GetName()
    with pytest.raises(InputError, match="for each volume of a series"):
        read_transform(written)


def test_in_a_chain_with_one_transform_and_inverted(written: Path, tmp_path: Path) -> None:
    """A fixed point meets the first of the list, then that of its volume."""
    shift = AffineTransform(np.eye(3), np.array([1.5, 0, 0]))
    write_transform(tmp_path / "shift.txt", shift)
    chains = parse_series([str(tmp_path / "shift.txt"), str(written)])
    back = parse_series([f"[{written},1]"])
    for chain, inverse, true in zip(chains, back, transforms(), strict=True):
        np.testing.assert_allclose(chain(POINTS), true(shift(POINTS)), atol=1e-5)
        np.testing.assert_allclose(inverse(true(POINTS)), POINTS, atol=5e-3)


def test_lists_of_two_lengths_are_refused(written: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "two.h5", transforms()[:2])
    with pytest.raises(InputError, match="of 2 and of 3 volumes"):
        parse_series([str(written), str(tmp_path / "two.h5")])


def test_a_list_of_something_else_is_refused(written: Path) -> None:
    import h5py

    with h5py.File(written, "r+") as file:
        del file["TransformGroup/1/TransformType"]
        kind = h5py.string_dtype("ascii")
        group = file["TransformGroup/1"]
        group.create_dataset("TransformType", data=["TranslationTransform_double_3_3"], dtype=kind)
    with pytest.raises(InputError, match="no list of transforms"):
        read_series(written)


def test_numbers_that_cannot_be_unpacked_are_refused(written: Path) -> None:
    """Of the packed field, whose middle is overwritten; h5py raises OSError for such."""
    import h5py

    with h5py.File(written, "r") as file:
        packed = file["TransformGroup/2/TransformParameters"].id.get_chunk_info(0)
    content = bytearray(written.read_bytes())
    middle = packed.byte_offset + packed.size // 2
    content[middle : middle + 64] = bytes(64)
    written.write_bytes(content)
    with pytest.raises(InputError, match=r"motion\.h5: no list of transforms"):
        read_series(written)

"""Transform files without times: same bytes whenever written, and HDF5 still takes them."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.geometry import Grid
from carl_cli.io.transforms.files import read_transform, write_transform
from carl_cli.io.transforms.timeless import checksum
from carl_cli.transforms import AffineTransform, CompositeTransform, DisplacementField


def test_the_checksum_is_lookup3() -> None:
    """Jenkins's own test: hashlittle("Four score and seven years ago", 0) = 0x17770551."""
    assert checksum(b"Four score and seven years ago") == 0x17770551
    assert checksum(b"") == 0xDEADBEEF


@pytest.mark.parametrize("precision", ["float", "double"])
def test_same_bytes_at_any_time(tmp_path: Path, precision: str, grids: dict[str, Grid]) -> None:
    grid = grids["oblique"]
    field = np.random.default_rng(0).normal(0, 3, (*grid.shape_zyx, 3)).astype(np.float32)
    # The first four bytes of a header inside the data are no header.
    field.view(np.uint8).reshape(-1)[4:10] = np.frombuffer(b"OHDR\x02\x20", np.uint8)
    affine = AffineTransform(np.diag([1.1, 0.9, 1.0]), np.array([1.0, 2.0, 3.0]))
    transform = CompositeTransform((affine, DisplacementField(grid, field)))
    first, second = tmp_path / "1.h5", tmp_path / "2.h5"
    write_transform(first, transform, precision=precision)
    time.sleep(1.1)  # HDF5 notes whole seconds
    write_transform(second, transform, precision=precision)
    assert first.read_bytes() == second.read_bytes()
    with h5py.File(first) as file:
        objects = []
        file.visititems(lambda _, item: objects.append(item))
        times = [h5py.h5g.get_objinfo(o.id).mtime for o in objects]
        assert times == [0] * len(objects)
        assert len(objects) > 8
        stored = file["TransformGroup/2/TransformParameters"][...].reshape(field.shape)
        np.testing.assert_array_equal(stored, field)
    assert sitk.ReadTransform(str(first)).GetDimension() == 3
    point = np.array([3.0, -4.0, 5.0])
    np.testing.assert_allclose(read_transform(first)(point), transform(point), atol=1e-5)

"""The -t grammar: marks, order and inversion, as ANTs has them."""

from __future__ import annotations

from pathlib import Path

import ants
import numpy as np
import pandas
import pytest

from carl_cli.errors import InputError, UsageError
from carl_cli.io.transforms.chain import parse_chain, parse_item, parse_series
from carl_cli.io.transforms.files import write_transform
from carl_cli.transforms import AffineTransform
from tests.conftest import GRIDS
from tests.fields import field_on, inner_points


@pytest.mark.parametrize(
    ("text", "path", "inverted"),
    [
        ("a.mat", "a.mat", False),
        ("[a.mat,1]", "a.mat", True),
        ("[ a b.mat , 1 ]", "a b.mat", True),
        ("[a.mat,0]", "a.mat", False),
        ("[a.mat]", "a.mat", False),
        ("[a.mat,true]", "a.mat", True),
        ("a.mat,-1", "a.mat", True),
        ("dir,1/a.mat", "dir,1/a.mat", False),
        ("/x/y.h5,-1", "/x/y.h5", True),
    ],
)
def test_marks(text: str, path: str, inverted: bool) -> None:
    assert parse_item(text) == (path, inverted)


@pytest.mark.parametrize("text", ["[a.mat,2]", "a.mat,1", "[a.mat,x]"])
def test_unknown_marks_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown mark"):
        parse_item(text)


@pytest.fixture
def files(tmp_path: Path, affine: AffineTransform) -> tuple[str, str]:
    write_transform(tmp_path / "warp.nii.gz", field_on(GRIDS["oblique"]))
    write_transform(tmp_path / "affine.mat", affine)
    return str(tmp_path / "warp.nii.gz"), str(tmp_path / "affine.mat")


def test_the_first_item_meets_the_points_first(
    files: tuple[str, str], affine: AffineTransform
) -> None:
    field, points = field_on(GRIDS["oblique"]), inner_points(GRIDS["oblique"])
    np.testing.assert_allclose(parse_chain(files)(points), affine(field(points)), atol=1e-4)
    swapped = parse_chain(files[::-1])(points)
    np.testing.assert_allclose(swapped, field(affine(points)), atol=1e-4)
    assert np.linalg.norm(swapped - parse_chain(files)(points), axis=1).max() > 1


@pytest.mark.parametrize("reverse", [False, True])
def test_ants_has_the_same_order(files: tuple[str, str], reverse: bool) -> None:
    items = list(files)[::-1] if reverse else list(files)
    points = inner_points(GRIDS["oblique"], margin=8)
    table = pandas.DataFrame(points, columns=list("xyz"))
    as_they_are = [False, False]  # antspyx would invert an affine that comes first
    theirs = ants.apply_transforms_to_points(3, table, items, as_they_are)[list("xyz")].to_numpy()
    np.testing.assert_allclose(parse_chain(items)(points), theirs, atol=1e-3)


def test_ants_inverts_the_same_affine(files: tuple[str, str]) -> None:
    points = inner_points(GRIDS["oblique"])
    table = pandas.DataFrame(points, columns=list("xyz"))
    theirs = ants.apply_transforms_to_points(3, table, [files[1]], whichtoinvert=[True])
    ours = parse_chain([f"[{files[1]},1]"])(points)
    np.testing.assert_allclose(ours, theirs[list("xyz")].to_numpy(), atol=1e-4)


def test_the_inverse_chain_is_the_reversed_list_of_inverses(files: tuple[str, str]) -> None:
    points = inner_points(GRIDS["oblique"])
    there = parse_chain(files)(points)
    back = parse_chain([f"[{files[1]},1]", f"{files[0]},-1"])(there)
    assert np.linalg.norm(back - points, axis=1).max() < 3e-3


def test_an_empty_chain_and_a_missing_file_are_refused() -> None:
    with pytest.raises(UsageError, match="no transform"):
        parse_chain([])
    with pytest.raises(InputError, match=r"absent\.h5: no such file"):
        parse_chain(["absent.h5"])


def test_an_affine_without_inverse_is_named(tmp_path: Path) -> None:
    path = tmp_path / "flat.mat"
    np.savetxt(path, np.diag([1.0, 1, 0, 1]))
    assert parse_chain([f"greedy:{path}"])(np.ones(3)).tolist() == [1, 1, 0]
    for parse in (parse_chain, parse_series):
        with pytest.raises(InputError, match=r"flat\.mat: the affine transform is singular"):
            parse([f"[greedy:{path},1]"])

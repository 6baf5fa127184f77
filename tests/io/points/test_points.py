"""Point files: frames, columns, labels, and ANTs as referee."""

from __future__ import annotations

import json
from pathlib import Path

import ants
import numpy as np
import pandas
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError, UsageError
from carl_cli.io.points.files import read_points, write_points
from carl_cli.io.transforms.files import write_transform
from carl_cli.workflows.transform import map_points
from tests.conftest import GRIDS
from tests.fields import field_on, inner_points

LPS = np.array([[1.5, -2.25, 3.0], [40.125, 5.0, -6.5], [0.001, 1e-7, -1234.56789]])
RAS = LPS * [-1, -1, 1]
SHIFT = np.array([10.0, 20.0, 30.0])
NAMES = ("nose", "left, eye", "")


def rows(points: np.ndarray) -> list[str]:
    return [",".join(f"{v:.10g}" for v in p) for p in points]


def csv_file(points: np.ndarray) -> str:
    a, b, c = rows(points)
    return f'name,x,y,z,t,extra\nnose,{a},0,7\n"left, eye",{b},1,8\n,{c},2,9\n'


def fcsv_file(points: np.ndarray, frame: str) -> str:
    head = (
        f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {frame}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    )
    ends = ("nose", '"left, eye"', "")
    lines = [
        f"{k},{p},0,0,0,1,1,1,0,{n},,"
        for k, (p, n) in enumerate(zip(rows(points), ends, strict=True))
    ]
    return head + "\n".join(lines) + "\n"


def markups_file(points: np.ndarray, frame: str | None) -> str:
    controls = [
        {"id": str(k), "label": n, "position": list(p), "visibility": True}
        for k, (p, n) in enumerate(zip(points, NAMES, strict=True))
    ]
    lost = {"id": "9", "label": "lost", "positionStatus": "undefined", "position": [0, 0, 0]}
    markup = {"type": "Curve", "controlPoints": [*controls, lost], "display": {"opacity": 0.5}}
    if frame:
        markup["coordinateSystem"] = frame
    return json.dumps({"@schema": "https://x/markups-schema-v1.0.3.json#", "markups": [markup]})


def vtk_file(points: np.ndarray, title: str) -> str:
    numbers = " ".join(f"{v:.10g}" for v in points.ravel())
    tail = "POLYGONS 1 4\n3 0 1 2\nPOINT_DATA 3\nSCALARS s float 1\nLOOKUP_TABLE default\n7 8 9\n"
    return (
        f"# vtk DataFile Version 4.2\n{title}\nASCII\nDATASET POLYDATA\n"
        f"POINTS 3 float\n{numbers}\n{tail}"
    )


FILES = {
    "a.csv": (csv_file(LPS), "LPS"),
    "a.txt": ("point\n3\n" + "\n".join(r.replace(",", " ") + " # note" for r in rows(LPS)), "LPS"),
    "old.fcsv": (fcsv_file(RAS, "0"), "RAS"),
    "ras.fcsv": (fcsv_file(RAS, "RAS"), "RAS"),
    "lps.fcsv": (fcsv_file(LPS, "LPS"), "LPS"),
    "one.fcsv": (fcsv_file(LPS, "1"), "LPS"),
    "lps.mrk.json": (markups_file(LPS, "LPS"), "LPS"),
    "ras.mrk.json": (markups_file(RAS, "RAS"), "RAS"),
    "none.mrk.json": (markups_file(LPS, None), "LPS"),
    "plain.vtk": (vtk_file(LPS, "no frame"), "LPS"),
    "slicer.vtk": (vtk_file(RAS, "3D Slicer output. SPACE=RAS"), "RAS"),
    "slicer_lps.vtk": (vtk_file(LPS, "3D Slicer output. SPACE=LPS"), "LPS"),
}


OTHER_NUMBERS = (
    "x;y;z\n1,0;2,0;3,0\n",
    "1,5 2,5 3,5\n",
    "1 2 3,5\n",
    "1,,2,3\n",
    "z y x\n1 2 3\n",
    "x,x,y,z\n9,1,2,3\n",
    "# t x y z\n0 1 2 3\n",
)


@pytest.mark.parametrize("text", OTHER_NUMBERS)
def test_a_text_that_would_be_read_as_other_numbers(tmp_path: Path, text: str) -> None:
    """Decimal commas, empty cells, columns in another order."""
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(InputError, match=r"decimal comma|in another order"):
        read_points(tmp_path / "p.txt")


@pytest.mark.parametrize(
    "text", ["x y z t\n1 -2.5 3 0\n", "1, -2.5, 3, 0\n", "1;-2.5;3;a, b\n", "# x\n1\t-2.5\t3, a\n"]
)
def test_marks_between_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    assert read_points(tmp_path / "p.txt").points_lps.tolist() == [[1, -2.5, 3]]


@pytest.fixture(params=sorted(FILES))
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    content, frame = FILES[request.param]
    (tmp_path / request.param).write_text(content)
    return tmp_path / request.param, frame


def test_numbers_are_taken_in_the_frame_that_the_file_names(file: tuple[Path, str]) -> None:
    path, frame = file
    points = read_points(path)
    np.testing.assert_allclose(points.points_lps, LPS, rtol=1e-9)
    assert points.frame == frame


def test_the_option_overrules_the_file(file: tuple[Path, str]) -> None:
    path, frame = file
    other = "RAS" if frame == "LPS" else "LPS"
    overruled = read_points(path, frame=other)  # type: ignore[arg-type]
    np.testing.assert_allclose(overruled.points_lps, RAS, rtol=1e-9)


def test_only_the_coordinates_change(file: tuple[Path, str]) -> None:
    """Written in its own format, with the same numbers: the same text apart from layout."""
    path, frame = file
    points = read_points(path)
    write_points(path.with_name("moved" + path.name), points.moved_to(points.points_lps + SHIFT))
    moved = path.with_name("moved" + path.name)
    again = read_points(moved)
    np.testing.assert_allclose(again.points_lps, LPS + SHIFT, rtol=1e-9)
    assert again.frame == frame
    write_points(moved, again.moved_to(again.points_lps - SHIFT))
    before, after = (without_numbers(p, len(LPS)) for p in (path, moved))
    assert before == after


def without_numbers(path: Path, count: int) -> object:
    """The file's content with its coordinates taken out."""
    if path.suffix == ".json":
        document = json.loads(path.read_text())
        for point in document["markups"][0]["controlPoints"][:count]:
            point.pop("position")
        return document
    words = path.read_text().replace(",", " ").split()
    return [word for word in words if not _is_coordinate(word)]


def _is_coordinate(word: str) -> bool:
    try:
        return bool(np.isclose(np.abs(LPS), abs(float(word)), rtol=1e-6, atol=1e-9).any())
    except ValueError:
        return False


@pytest.mark.parametrize("target", ["b.csv", "b.txt", "b.fcsv", "b.mrk.json", "b.vtk"])
def test_another_format_gets_lps_points_and_labels(file: tuple[Path, str], target: str) -> None:
    path, _ = file
    points = read_points(path)
    write_points(path.with_name(target), points)
    again = read_points(path.with_name(target))
    np.testing.assert_allclose(again.points_lps, LPS, rtol=1e-9)
    if target.endswith(("csv", "json")) and points.document.labels:
        assert again.document.labels == points.document.labels


@pytest.mark.parametrize(("dtype", "name"), [(">f4", "float"), (">f8", "double")])
def test_binary_vtk_changes_nothing_but_its_points(tmp_path: Path, dtype: str, name: str) -> None:
    head = f"# vtk DataFile Version 4.2\nSPACE=RAS\nBINARY\nDATASET POLYDATA\nPOINTS 3 {name}\n"
    tail = b"\nVERTICES 3 6\n" + np.array([1, 0, 1, 1, 1, 2], ">i4").tobytes() + b"\n"
    (tmp_path / "b.vtk").write_bytes(head.encode() + RAS.astype(dtype).tobytes() + tail)
    points = read_points(tmp_path / "b.vtk")
    np.testing.assert_allclose(points.points_lps, LPS, rtol=1e-6)
    write_points(tmp_path / "c.vtk", points.moved_to(points.points_lps + SHIFT))
    written = (tmp_path / "c.vtk").read_bytes()
    expected = ((LPS + SHIFT) * [-1, -1, 1]).astype(dtype)
    assert written.startswith(head.encode())
    assert written.endswith(tail)
    stored = np.frombuffer(written[len(head) : -len(tail)], dtype).reshape(3, 3)
    np.testing.assert_allclose(stored, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "1,2,3\n", "no column x, y, z"),
        ("a.csv", "x,y,z,y\n1,2,3,4\n", "more than one column y"),
        ("a.fcsv", "# version = 4\0# CoordinateSystem = LPS\n1,1,2,3\n", "zero bytes"),
        ("a.csv", "x,y,z\n1,2,three\n", "not a number"),
        ("a.csv", "x,y,z\n1,2,1_0\n", "not a number"),
        ("a.csv", "x,y,z\n1,2,nan\n", "not finite"),
        ("a.csv", "x,y,z\n1,2,3\n4,5\n", "row 2 has 2 of 3 columns"),
        ("a.txt", "index\n1\n1 2 3\n", "voxel indices"),
        ("a.txt", "no numbers\n", "no line with 3 numbers"),
        ("a.fcsv", "# CoordinateSystem = IJK\n1,2,3,4\n", "coordinate system is neither"),
        ("a.mrk.json", "{}", "not a Slicer markups file"),
        ("a.vtk", "hello", "not a legacy VTK file"),
        ("a.vtp", "<VTKFile/>", "not read from files with this suffix"),
        ("a.xyz", "", "not read from files with this suffix"),
    ],
)
def test_bad_files_are_refused_with_the_reason(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_points(tmp_path / name)


def test_no_points_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z,t\n")
    points = read_points(tmp_path / "a.csv")
    assert points.points_lps.shape == (0, 3)
    write_points(tmp_path / "b.csv", points)
    assert (tmp_path / "b.csv").read_text() == "x,y,z,t\n"


def test_a_suffix_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(csv_file(LPS))
    with pytest.raises(UsageError):
        write_points(tmp_path / "b.obj", read_points(tmp_path / "a.csv"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_points_of_the_fixed_image_go_where_ants_sends_them(name: str, tmp_path: Path) -> None:
    grid = GRIDS[name]
    points = inner_points(grid, 30)
    write_transform(tmp_path / "t.h5", field_on(grid))
    table = pandas.DataFrame(points, columns=list("xyz")).assign(t=0.0, label="a")
    table.to_csv(tmp_path / "in.csv", index=False)
    map_points(tmp_path / "in.csv", [str(tmp_path / "t.h5")], "fixed", tmp_path / "out.csv", None)
    ours = pandas.read_csv(tmp_path / "out.csv")
    assert list(ours.columns) == ["x", "y", "z", "t", "label"]
    theirs = ants.apply_transforms_to_points(3, table, [str(tmp_path / "t.h5")])
    np.testing.assert_allclose(ours[list("xyz")], theirs[list("xyz")], atol=1e-3)


def test_points_of_the_moving_image_come_back(tmp_path: Path) -> None:
    """There and back within micrometres, and the direction is not the wrong one."""
    grid = GRIDS["oblique"]
    chain = [str(tmp_path / "t.nii.gz"), str(tmp_path / "a.tfm")]
    write_transform(chain[0], field_on(grid))
    sitk.WriteTransform(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3, (6, -4, 3)), chain[1])
    points = inner_points(grid, 40)
    paths = [tmp_path / f"{k}.txt" for k in ("fixed", "moving", "back")]
    np.savetxt(paths[0], points)
    assert map_points(paths[0], chain, "fixed", paths[1], None) is None
    residual = map_points(paths[1], chain, "moving", paths[2], None)
    assert residual is not None
    assert residual.max() < 2e-3
    np.testing.assert_allclose(np.loadtxt(paths[2]), points, atol=2e-3)
    assert np.linalg.norm(np.loadtxt(paths[1]) - points, axis=1).min() > 1


def test_2d_points(tmp_path: Path) -> None:
    sitk.WriteTransform(sitk.TranslationTransform(2, (6.0, -4.0)), str(tmp_path / "t.tfm"))
    (tmp_path / "in.csv").write_text("x,y,z,t\n1,2,0,5\n")
    map_points(tmp_path / "in.csv", [str(tmp_path / "t.tfm")], "fixed", tmp_path / "o.csv", None)
    assert (tmp_path / "o.csv").read_text() == "x,y,z,t\n7,-2,0,5\n"


def test_2d_points_are_flat(tmp_path: Path) -> None:
    """A third coordinate was kept as if it had been mapped; ANTs writes 0 there."""
    path = tmp_path / "p.csv"
    for text in ("x,y,z,t\n1,2,0,0\n", "x,y,z\n1,2,\n", "x,y,label\n1,2,3\n"):
        path.write_text(text)
        np.testing.assert_array_equal(read_points(path, dimension=2).points_lps, [[1, 2]])
    path.write_text("x,y,z\n1,2,0\n1,2,3.5\n")
    with pytest.raises(InputError, match=r"z = 3\.5, the transform is of two dimensions"):
        read_points(path, dimension=2)
    assert read_points(path).points_lps[1, 2] == 3.5

"""Surfaces and streamlines made and read back by nibabel and by hand: places, frames, the rest."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.freesurfer import read_geometry, write_geometry
from nibabel.streamlines import TckFile, Tractogram, TrkFile

from carl_cli.errors import InputError
from carl_cli.io.points.files import read_points, write_points
from tests.measured import assert_close

RAS = np.array([[10.0, 20, 30], [12, -21, 31], [-7, 22, 33], [8, 9, -40]])
LPS = RAS * [-1, -1, 1]
FACES = np.array([[0, 1, 2], [0, 2, 3], [1, 3, 2]], np.int32)
SHIFT = np.array([6.0, -4.0, 3.0])


def moved(path: Path, file: str) -> Path:
    """What nibabel wrote, its points 6, -4, 3 mm (LPS) further on."""
    points = read_points(path)
    assert_close(points.points_lps, LPS, 1e-4, file=file, way="read", referee="nibabel")
    out = path.with_name("out" + path.suffix)
    write_points(out, points.moved_to(points.points_lps + SHIFT))
    np.testing.assert_allclose(read_points(out).points_lps, LPS + SHIFT, atol=1e-4)
    return out


MOVED_RAS = RAS + SHIFT * [-1, -1, 1]


@pytest.mark.parametrize("space", ["scanner", "other"])
def test_gifti(tmp_path: Path, space: str) -> None:
    """RAS; a surface in a space of its own is placed by the matrix that it states."""
    turn = np.array([[0, -1, 0, 3], [1, 0, 0, -5], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    own = RAS if space == "scanner" else nibabel.affines.apply_affine(np.linalg.inv(turn), RAS)
    system = nibabel.gifti.GiftiCoordSystem(
        dataspace=1 if space == "scanner" else 0, xformspace=1,
        xform=np.eye(4) if space == "scanner" else turn,
    )  # fmt: skip
    arrays = [
        nibabel.gifti.GiftiDataArray(own.astype("f4"), "NIFTI_INTENT_POINTSET", coordsys=system),
        nibabel.gifti.GiftiDataArray(FACES, "NIFTI_INTENT_TRIANGLE"),
    ]
    nibabel.save(nibabel.GiftiImage(darrays=arrays), tmp_path / "a.surf.gii")
    made = nibabel.load(moved(tmp_path / "a.surf.gii", "GIFTI surface"))
    points, faces = (made.agg_data(kind) for kind in ("pointset", "triangle"))
    expected = MOVED_RAS
    if space == "other":
        expected = nibabel.affines.apply_affine(np.linalg.inv(turn), MOVED_RAS)
    assert_close(points, expected, 1e-4, file="GIFTI surface", way="written", referee="nibabel")
    np.testing.assert_array_equal(faces, FACES)


def test_a_surface_of_freesurfer(tmp_path: Path) -> None:
    """Surface RAS and scanner RAS by way of an oblique volume's voxels, as nibabel has them."""
    angle = np.radians(20)
    axes = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    volume = {
        "head": np.array([2, 0, 20], np.int32), "valid": "1  # volume info valid", "filename": "x",
        "volume": np.array([60, 70, 80]), "voxelsize": np.array([1.0, 1.2, 0.9]),
        "xras": axes[:, 0], "yras": axes[:, 1], "zras": axes[:, 2], "cras": np.array([5.0, -3, 8]),
    }  # fmt: skip
    header = nibabel.freesurfer.mghformat.MGHHeader()
    header.set_data_shape((60, 70, 80))
    header.set_zooms(volume["voxelsize"])
    header["Mdc"] = axes.T
    header["Pxyz_c"], header["goodRASFlag"] = volume["cras"], 1
    to_surface = header.get_vox2ras_tkr() @ np.linalg.inv(header.get_affine())
    own = nibabel.affines.apply_affine(to_surface, RAS)
    write_geometry(tmp_path / "lh.white", own, FACES, volume_info=volume)
    points, faces = read_geometry(moved(tmp_path / "lh.white", "FreeSurfer surface"))
    expected = nibabel.affines.apply_affine(to_surface, MOVED_RAS)
    file = "FreeSurfer surface"
    assert_close(points, expected, 1e-4, file=file, way="written", referee="nibabel")
    np.testing.assert_array_equal(faces, FACES)
    write_geometry(tmp_path / "lh.pial", own, FACES)
    with pytest.raises(InputError, match="does not say to which volume"):
        read_points(tmp_path / "lh.pial")


@pytest.mark.parametrize("suffix", [".tck", ".trk"])
def test_streamlines_stay_streamlines(tmp_path: Path, suffix: str) -> None:
    lines = [RAS[:3], RAS[3:]]
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -50
    tractogram = Tractogram(lines, affine_to_rasmm=np.eye(4))
    if suffix == ".trk":
        tractogram.data_per_streamline["weight"] = np.array([[0.5], [2.0]])
        header = {"voxel_to_rasmm": affine, "voxel_sizes": (2, 2, 2), "dimensions": (50, 50, 50)}
        TrkFile(tractogram, header).save(tmp_path / "a.trk")
    else:
        TckFile(tractogram).save(tmp_path / "a.tck")
    again = nibabel.streamlines.load(moved(tmp_path / f"a{suffix}", f"streamlines {suffix}"))
    for line, expected in zip(again.streamlines, (MOVED_RAS[:3], MOVED_RAS[3:]), strict=True):
        file = f"streamlines {suffix}"
        assert_close(line, expected, 1e-4, file=file, way="written", referee="nibabel")
    if suffix == ".trk":
        weights = again.tractogram.data_per_streamline["weight"]
        np.testing.assert_array_equal(weights, [[0.5], [2.0]])


def stl(points: np.ndarray, title: bytes) -> bytes:
    triangles = [struct.pack("<12fH", 0, 0, 0, *points[face].ravel(), 0) for face in FACES]
    return title.ljust(80) + struct.pack("<I", len(FACES)) + b"".join(triangles)


@pytest.mark.parametrize("frame", ["LPS", "RAS", ""])
@pytest.mark.parametrize("suffix", [".ply", ".obj", ".stl"])
def test_meshes(tmp_path: Path, suffix: str, frame: str) -> None:
    """Without Slicer's note numbers are LPS; the note is kept."""
    own, path = RAS if frame == "RAS" else LPS, tmp_path / f"a{suffix}"
    note = f"SPACE={frame}" if frame else "by hand"
    rows = [" ".join(f"{v:g}" for v in point) for point in own]
    if suffix == ".obj":
        faces = [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in FACES]
        path.write_text("\n".join([f"# {note}", *(f"v {row}" for row in rows), *faces, ""]))
    elif suffix == ".ply":
        faces = [f"3 {a} {b} {c}" for a, b, c in FACES]
        head = f"ply\nformat ascii 1.0\ncomment {note}\nelement vertex 4\nproperty float x\n"
        head += "property float y\nproperty float z\nelement face 3\n"
        head += "property list uchar int vertex_indices\nend_header\n"
        path.write_text(head + "\n".join([*rows, *faces, ""]))
    else:
        path.write_bytes(stl(own, note.encode()))
    points = read_points(path)
    expected = LPS if suffix != ".stl" else LPS[FACES].reshape(-1, 3)
    file, referee = f"mesh {suffix}", "numbers by hand"
    assert_close(points.points_lps, expected, 1e-5, file=file, way="read", referee=referee)
    out = tmp_path / f"b{suffix}"
    write_points(out, points.moved_to(points.points_lps + SHIFT))
    again = read_points(out)
    np.testing.assert_allclose(again.points_lps, expected + SHIFT, atol=1e-5)
    assert again.document.frame == (frame or None)


@pytest.mark.parametrize("name", ["a.gii", "a.stl", "a.ply", "a.obj", "a.tck", "a.trk", "lh.white"])
def test_nonsense_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no such thing" * 10)
    with pytest.raises(InputError, match=name):
        read_points(tmp_path / name)

"""What other readers, or a formula, make of a file of another program: see `Dialect.referee`.

Each compares where points go with where ITK takes them through the .h5 that carl made.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk

from tests.faults.referees import Array, Unknown, by_simpleitk

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
FAR_MM, NEAR, PLACE = 60.0, 1e-4, 0.05
"""NEAR: of the size of the coordinates (single precision). PLACE: voxels, as in `judge.py`."""


def _same(points: Array, mapped: Array, out: Path, found: Path = Path("out.h5")) -> None:
    """At (N, 3) LPS points. Raises ValueError."""
    read = sitk.ReadTransform(str(out / found))
    ours = np.array([read.TransformPoint([float(v) for v in point]) for point in points])
    size = max(1.0, float(np.abs(mapped).max()), float(np.abs(points).max()))
    gap = float(np.abs(ours - mapped).max()) / size
    if not gap < NEAR:
        raise ValueError(f"other places, by {gap:.3g} of {size:.3g} mm")


def _linear(matrix: Array, out: Path) -> None:
    """(4, 4), LPS, fixed to moving."""
    points = np.random.default_rng(0).uniform(-FAR_MM, FAR_MM, (8, 3))
    if not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise ValueError("no affine matrix")
    _same(points, points @ matrix[:3, :3].T + matrix[:3, 3], out)


def _numbers(text: str) -> list[float]:
    if "_" in text:
        raise ValueError("an underscore in a number")
    return [float(word) for word in text.split()]


def ras_matrix(path: Path, out: Path) -> None:
    lines = [line.partition("#")[0] for line in path.read_text("latin-1").splitlines()]
    held = [_numbers(line) for line in lines if line.strip()]
    _linear(FLIP @ np.array(held).reshape(4, 4) @ FLIP, out)


def afni(path: Path, out: Path) -> None:
    lines = [line.partition("#")[0] for line in path.read_text("latin-1").splitlines()]
    _linear(np.vstack([np.reshape(_numbers(" ".join(lines)), (3, 4)), [0, 0, 0, 1]]), out)


def xfm(path: Path, out: Path) -> None:
    text = re.sub("%[^\n]*", "", path.read_text())
    entries = [entry.strip() for entry in text.removeprefix("MNI Transform File").split(";")]
    if entries.pop():
        raise ValueError("an entry without its end")
    fields = dict(re.split(r"\s*=\s*", entry, maxsplit=1) for entry in entries)
    if len(fields) < len(entries) or fields["Transform_Type"] != "Linear":
        raise Unknown
    rows = np.reshape(_numbers(fields["Linear_Transform"]), (3, 4))
    matrix = FLIP @ np.vstack([rows, [0, 0, 0, 1]]) @ FLIP
    inverted = fields.get("Invert_Flag", "False") == "True"
    _linear(matrix if inverted else np.linalg.inv(matrix), out)


def lta(path: Path, out: Path) -> None:
    text = path.read_text()
    kind, count = (int(_entry(text, key)) for key in ("type", "nxforms"))
    if count != 1 or kind not in (0, 1):
        raise ValueError(f"{count} transforms of type {kind}")
    matrix = np.reshape(_numbers(text.split("1 4 4\n", 1)[1].partition("src")[0]), (4, 4))
    if kind == 0:
        source, target = (_volume(text, name) for name in ("src", "dst"))
        matrix = target @ matrix @ np.linalg.inv(source)
    _linear(FLIP @ np.linalg.inv(matrix) @ FLIP, out)


def _entry(text: str, key: str) -> str:
    found = re.findall(rf"^{key} *= *([^#\n]*)", text, re.MULTILINE)
    if len(found) != 1:
        raise ValueError(f"{len(found)} entries {key!r}")
    return str(found[0])


def _volume(text: str, name: str) -> Array:
    parts = re.split(r"^(src|dst) volume info\s*$", text, flags=re.MULTILINE)
    block = parts[parts.index(name) + 1]
    if _entry(block, "valid").strip() != "1":
        raise ValueError("a volume that is not valid")
    axes = np.column_stack([_numbers(_entry(block, f"{axis}ras")) for axis in "xyz"])
    size, steps, centre = (_numbers(_entry(block, key)) for key in ("volume", "voxelsize", "cras"))
    affine = np.eye(4)
    affine[:3, :3] = axes * steps
    affine[:3, 3] = centre - affine[:3, :3] @ np.array(size) / 2
    return affine


def elastix(path: Path, out: Path) -> None:
    pairs = re.findall(r"^\s*\((\w+)\s+(.*)\)", path.read_text(), re.MULTILINE)
    fields = {key: value.replace('"', "") for key, value in pairs}
    if len(fields) < len(pairs):
        raise ValueError("a parameter stands there twice")
    values = _numbers(fields["TransformParameters"])
    known = fields.get("FixedImageDimension") == "3" and "ComputeZYX" in fields
    if fields["Transform"] != "EulerTransform" or not known:
        raise Unknown
    if int(fields["NumberOfParameters"]) != len(values) or len(values) != 6:
        raise ValueError("another number of parameters")
    zyx = fields["ComputeZYX"] == "true"
    _linear(_euler(values, _numbers(fields["CenterOfRotationPoint"]), zyx), out)


def _euler(values: list[float], centre: list[float], zyx: bool) -> Array:
    """ITK's: rotations about z, x, y in this order of factors, or z, y, x."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(values[:3]), np.cos(values[:3])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn = about_z @ about_y @ about_x if zyx else about_z @ about_x @ about_y
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = np.array(values[3:]) + centre - turn @ centre
    return matrix


def euler(path: Path, out: Path) -> None:
    lines = [line for line in path.read_text("latin-1").splitlines() if not line.startswith("#")]
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if fields["Transform"] != "Euler3DTransform_double_3_3":
        raise Unknown
    values, fixed = _numbers(fields["Parameters"]), _numbers(fields["FixedParameters"])
    if len(values) != 6 or len(fixed) not in (3, 4):
        raise ValueError("another number of parameters")
    _linear(_euler(values, fixed[:3], fixed[3:] not in ([], [0.0])), out)


def x5(path: Path, out: Path) -> None:
    with h5py.File(path, "r") as file:
        group = file["TransformGroup/0"]
        if file.attrs["Format"] != "X5" or len(file["TransformGroup"]) != 1:
            raise ValueError("no single transform of X5")
        values = np.asarray(group["Transform"], float)
        if group.attrs["Type"] == "linear":
            return _linear(FLIP @ values.reshape(4, 4) @ FLIP, out)
        mapping = np.asarray(group["Domain/Mapping"], float).reshape(4, 4)
        positions = group.attrs["Representation"] == "deformations"
    _field(FLIP @ mapping, values @ FLIP[:3, :3], positions, out)
    return None


def _field(to_lps: Array, values: Array, positions: bool, out: Path) -> None:
    """values: (x, y, z, 3) in LPS, at every voxel of an image on this grid."""
    points = _voxels(to_lps, values.shape[:3])
    mapped = values.reshape(-1, 3) + (0 if positions else points)
    inside = slice(None, None, max(1, len(points) // 50))
    _same(points[inside], mapped[inside], out)


def _voxels(to_lps: Array, size: tuple[int, ...]) -> Array:
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(index @ to_lps[:3, :3].T + to_lps[:3, 3])


def _loaded(path: Path) -> tuple[Any, list[Array], Array]:
    """(file, index → LPS matrices that it may mean, (x, y, z, 3) numbers) of a NIfTI file."""
    read: Any = nibabel.load(path, mmap=False)
    forms = [read.get_sform(coded=True)[0], read.get_qform(coded=True)[0]]
    places = [FLIP @ form for form in forms if form is not None]
    if not places:
        raise Unknown
    return read, places, np.asarray(read.dataobj, float).reshape(*read.shape[:3], -1)


def _any_place(places: list[Array], check: Callable[[Array], None]) -> None:
    failures = []
    for place in places:
        try:
            return check(place)
        except ValueError as error:
            failures.append(error)
    raise failures[0]


def vectors(kind: str, name: str = "") -> Callable[[Path, Path], None]:
    """kind: of the numbers, ras or lps displacements or RAS positions. name: of the intent."""

    def referee(path: Path, out: Path) -> None:
        read, places, values = _loaded(path)
        if name and read.header.get_intent()[2] != name:
            raise Unknown
        if kind != "positions" and int(read.header["intent_code"]) == 1006:
            raise Unknown
        values = values if kind == "lps" else values @ FLIP[:3, :3]
        _any_place(places, lambda place: _field(place, values, kind == "positions", out))

    return referee


def niftyreg(path: Path, out: Path) -> None:
    read, places, values = _loaded(path)
    kind = float(read.header["intent_p1"])
    if kind not in (0, 1, 2):
        raise ValueError(f"intent_p1 is {kind}")
    values = values @ FLIP[:3, :3]
    if kind != 2:
        return _any_place(places, lambda place: _field(place, values, kind == 0, out))
    return _any_place(places, lambda place: _knots(place, values, out))


def _knots(to_lps: Array, values: Array, out: Path) -> None:
    """At the control points within: means of the 27 around by 1/6, 4/6, 1/6 along each axis."""
    mapped = values
    for axis in range(3):
        before, at, after = (
            np.take(mapped, range(k, mapped.shape[axis] - 2 + k), axis) for k in (0, 1, 2)
        )
        mapped = (before + 4 * at + after) / 6
    size = values.shape[:3]
    points = _voxels(to_lps, size).reshape(*size, 3)[1:-1, 1:-1, 1:-1]
    if mapped.size:
        _same(points.reshape(-1, 3), mapped.reshape(-1, 3), out)


def _mgh(path: Path) -> tuple[Array, Array, bytes]:
    content = path.read_bytes()
    read = nibabel.MGHImage.from_bytes(b"\0\0\0\1" + content[4:])
    array = np.asanyarray(read.dataobj)
    end = 284 + array.size * array.dtype.itemsize + 20
    return FLIP @ read.affine, array, content[end:]


def mgh(path: Path, out: Path) -> None:
    place, array, _ = _mgh(path)
    _picture(array.reshape(array.shape[:3]), place, out)


def mgh_warp(path: Path, out: Path) -> None:
    place, array, tags = _mgh(path)
    if struct.pack(">iqii", 13, 12, 3, 1) not in tags or array.shape[3:] != (3,):
        raise Unknown
    _field(place, array.astype(float) @ FLIP[:3, :3], False, out)


def _picture(array_xyz: Array, to_lps: Array, out: Path) -> None:
    from tests.faults.judge import place_gap

    written = by_simpleitk(out / "out.nrrd")
    if not np.allclose(written.array, array_xyz.T, rtol=1e-6, atol=0, equal_nan=True):
        raise ValueError("other voxels")
    gap = place_gap(to_lps, written.places[0], np.array(array_xyz.shape))
    if gap > PLACE:
        raise ValueError(f"another place, by {gap:.3g} voxels")


def mif(path: Path, out: Path) -> None:
    """Plain volumes only."""
    content = path.read_bytes()
    head = content[: content.index(b"\nEND")].decode("latin-1").split("\n")[1:]
    entries = [[part.strip() for part in line.split(":", 1)] for line in head]
    if len({key for key, _ in entries}) + 2 != len(entries):
        raise Unknown
    fields = dict(entries)
    plain = fields["layout"] == "+0,+1,+2" and fields["datatype"] == "Int16LE"
    if not plain or fields.keys() - {"dim", "vox", "layout", "datatype", "transform", "file"}:
        raise Unknown
    size = [int(word) for word in fields["dim"].split(",")]
    start = int(fields["file"].split()[1])
    array = np.frombuffer(content, "<i2", int(np.prod(size)), start).reshape(size, order="F")
    matrix = np.vstack([[0.0] * 4] * 4)
    matrix[:3] = [_numbers(v.replace(",", " ")) for k, v in entries if k == "transform"]
    matrix[3, 3] = 1
    matrix[:3, :3] *= _numbers(fields["vox"].replace(",", " "))
    _picture(array, FLIP @ matrix, out)


def minc(path: Path, out: Path) -> None:
    """ITK and nibabel round scaled voxels differently."""
    read: Any = nibabel.load(path)
    ours = by_simpleitk(out / "out.nrrd")
    array = np.asarray(read.dataobj, float).T
    if ours.array.size != array.size:
        raise ValueError(f"{ours.array.shape} voxels, {array.shape} expected")


def dicom_matrices(path: Path, out: Path) -> None:
    data = pydicom.dcmread(path, force=True)
    own, others = np.eye(4), []
    for item in data.RegistrationSequence:
        steps = item.MatrixRegistrationSequence[0].MatrixSequence
        matrix = np.eye(4)
        for step in steps:
            read = np.array(step.FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
            matrix = read @ matrix
        if item.FrameOfReferenceUID == data.FrameOfReferenceUID:
            own = matrix
        else:
            others.append(matrix)
    _linear(np.linalg.inv(others[0]) @ own, out)

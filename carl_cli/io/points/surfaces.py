"""Surfaces and streamlines: GIFTI, FreeSurfer, TCK and TRK by nibabel, STL, PLY and OBJ by trimesh.

Positions change and normals with them; faces, lines and what belongs to each point stay.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array, apply_affine
from carl_cli.io.points.document import Document, Frame

MESHES = (".stl", ".ply", ".obj")
STREAMLINES = (".tck", ".trk")
FREESURFER = (".white", ".pial", ".smoothwm", ".orig")
SUFFIXES = (".gii", *MESHES, *STREAMLINES, *FREESURFER)
SPACE = re.compile(rb"SPACE=(LPS|RAS)")
HEAD = 2000


def read_surface(content: bytes, suffix: str, name: str) -> Document:
    """Raises InputError for what the libraries can't read."""
    readers: dict[str, Callable[[bytes, str], Document]] = {
        ".gii": _gifti,
        **dict.fromkeys(STREAMLINES, _streamlines),
        **dict.fromkeys(FREESURFER, _freesurfer),
        **dict.fromkeys(MESHES, _mesh),
    }
    try:
        return readers[suffix](content, suffix)
    except InputError as error:
        raise InputError(f"{name}: {error.message}", error.hint) from None
    except Exception as error:  # the libraries raise many kinds
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{name}: can't be read: {why}", "get the file again") from None


def _gifti(content: bytes, _suffix: str) -> Document:
    """Scanner RAS; where a file's numbers are in another space, by the matrix that it states."""
    import nibabel  # late: 0.2 s

    def points_of(image: Any) -> Any:
        arrays = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
        if len(arrays) != 1:
            raise InputError(f"{len(arrays)} arrays of points, one was expected")
        return arrays[0]

    stored = points_of(nibabel.GiftiImage.from_bytes(content))
    system = stored.coordsys
    to_scanner = np.eye(4)
    if system is not None and system.xformspace == 1 and system.dataspace != 1:
        to_scanner = np.asarray(system.xform, float)

    from_scanner = np.asarray(np.linalg.inv(to_scanner), float)

    def rewrite(values: Array) -> bytes:
        image = nibabel.GiftiImage.from_bytes(content)
        array = points_of(image)
        array.data = apply_affine(from_scanner, values).astype(array.data.dtype)
        written: bytes = image.to_bytes()
        return written

    return Document(apply_affine(to_scanner, stored.data.astype(float)), "RAS", rewrite)


def _streamlines(content: bytes, suffix: str) -> Document:
    """RAS mm; streamlines stay streamlines, with the data of each and of their points."""
    from nibabel.streamlines.tck import TckFile
    from nibabel.streamlines.trk import TrkFile

    kind = TckFile if suffix == ".tck" else TrkFile
    numbers = kind.load(BytesIO(content)).tractogram.streamlines.get_data()

    def rewrite(values: Array) -> bytes:
        file, out = kind.load(BytesIO(content)), BytesIO()
        file.tractogram.streamlines._data[:] = values
        file.save(out)
        return out.getvalue()

    return Document(np.reshape(numbers, (-1, 3)).astype(float), "RAS", rewrite)


def _freesurfer(content: bytes, suffix: str) -> Document:
    """Surface RAS, which the volume's geometry at the end of the file makes scanner RAS."""
    from nibabel.freesurfer.io import read_geometry, write_geometry

    def with_file(use: Callable[[Path], Any]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return use(Path(folder) / f"surface{suffix}")

    def read(path: Path) -> Any:
        path.write_bytes(content)
        return read_geometry(path, read_metadata=True, read_stamp=True)

    points, faces, volume, stamp = with_file(read)
    if "cras" not in volume:
        raise InputError(
            "it does not say to which volume it belongs",
            "mris_convert --to-scanner makes a GIFTI surface in scanner coordinates",
        )
    to_scanner = _surface_to_scanner(volume)
    from_scanner = np.asarray(np.linalg.inv(to_scanner), float)

    def rewrite(values: Array) -> bytes:
        def write(path: Path) -> bytes:
            own = apply_affine(from_scanner, values)
            write_geometry(path, own, faces, stamp, volume)
            return path.read_bytes()

        written: bytes = with_file(write)
        return written

    return Document(apply_affine(to_scanner, points.astype(float)), "RAS", rewrite)


def _surface_to_scanner(volume: dict[str, Any]) -> Array:
    """(4, 4): both coordinates by way of the volume's voxels."""
    size, spacing = (np.asarray(volume[key], float) for key in ("volume", "voxelsize"))
    scanner, surface = np.eye(4), np.eye(4)
    scanner[:3, :3] = np.column_stack([volume[f"{axis}ras"] for axis in "xyz"]) * spacing
    scanner[:3, 3] = volume["cras"] - scanner[:3, :3] @ size / 2
    surface[:3, :3] = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]]) * spacing
    surface[:3, 3] = -surface[:3, :3] @ size / 2
    return np.asarray(scanner @ np.linalg.inv(surface))


def _mesh(content: bytes, suffix: str) -> Document:
    """In the frame that 3D Slicer notes in the file, else as it comes."""
    import trimesh  # late: half a second

    def load() -> Any:
        kind = suffix[1:]
        return trimesh.load(
            BytesIO(content), kind, force="mesh", process=False, maintain_order=True
        )

    found = SPACE.search(content[:HEAD])
    frame: Frame | None = None if found is None else ("LPS" if found[1] == b"LPS" else "RAS")

    def rewrite(values: Array) -> bytes:
        mesh = load()
        mesh.vertices = values
        written = mesh.export(file_type=suffix[1:])
        return _marked(written if isinstance(written, bytes) else written.encode(), suffix, frame)

    vertices = np.asarray(load().vertices, float)
    if suffix == ".obj":
        _check_lines(content)
    if not len(vertices):
        raise InputError("no points in it", "it is damaged or of another kind; get it again")
    return Document(vertices, frame, rewrite)


def _check_lines(content: bytes) -> None:
    """trimesh takes the numbers of all vertices for one list, whichever line they stand in."""
    lines = [line.split()[1:] for line in content.splitlines() if line.split()[:1] == [b"v"]]
    if lines and (len({len(words) for words in lines}) > 1 or len(lines[0]) < 3):
        raise InputError("its vertices have different numbers of coordinates, or less than three")


def _marked(content: bytes, suffix: str, frame: Frame | None) -> bytes:
    """With Slicer's note of the frame, where the input had one."""
    if frame is None:
        return content
    note = f"SPACE={frame}".encode()
    if suffix == ".obj":
        return b"# " + note + b"\n" + content
    if suffix == ".ply":
        return content.replace(b"\n", b"\ncomment " + note + b"\n", 1)
    return note.ljust(80) + content[80:]

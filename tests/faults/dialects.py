"""Sound files of other programs, surfaces and tables, to be damaged as those in `samples.py`.

Each kind has the command that reads its file and, where there is one, a referee that reads it by
other means (`dialect_referees.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image, to_sitk, write_image
from carl_cli.io.ras import affine_to_ras, flip_vectors, voxel_to_ras
from carl_cli.io.transforms.files import write_series, write_transform
from tests.cli.weights_folder import untrained_weights
from tests.faults import dialect_referees as referees
from tests.faults.samples import (
    GRID,
    POINTS,
    Sample,
    affine,
    dicom_folder,
    displacement,
    fresh_uid,
    image,
)

Words = list[object]
KNOTS = Grid((6, 5, 4), (6.0, 7.0, 8.0), (-12.0, -14.0, -9.0), tuple(np.eye(3).ravel()))
EULER = (0.1, -0.2, 0.3, 4.0, 5.0, -6.0)


@dataclass(frozen=True)
class Dialect:
    """command(path, out): the words behind `carl`. referee: raises for a file that is none, or for
    a result in `out` that is not what the file says. codes: of a refusal. table: may be refused
    line by line, and needs a server that has imported torch."""

    make: Callable[[Path], Sample]
    command: Callable[[Path, Path], Words]
    referee: Callable[[Path, Path], None] | None = None
    codes: tuple[int, ...] = (3,)
    table: bool = False


def convert(path: Path, out: Path, *words: object) -> Words:
    return ["convert", *words, path, "-o", out / "out.h5", "--precision", "double"]


def _from(program: str, pair: bool = False) -> Callable[[Path, Path], Words]:
    def command(path: Path, out: Path) -> Words:
        images = ["-r", path.parent / "fixed.nii", "-m", path.parent / "moving.nii"]
        return convert(path, out, "--from", program, *(images if pair else []))

    return command


def _points(path: Path, out: Path) -> Words:
    still = path.parent / "still.tfm"
    return ["points", path, "-t", still, "--from", "fixed", "-o", out / "out.csv"]


def _carried(name: str, write: Callable[[Path], None]) -> Dialect:
    """A file of points, carried by the identity."""

    def make(folder: Path) -> Sample:
        sitk.WriteTransform(sitk.AffineTransform(3), str(folder / "still.tfm"))
        write(folder / name)
        return _alone(folder / name, name.endswith((".obj", ".ply", ".gii")))

    return Dialect(make, _points)


def _alone(path: Path, text: bool = False) -> Sample:
    return Sample(path, path, text)


def _text(name: str, text: Callable[[], str]) -> Callable[[Path], Sample]:
    def make(folder: Path) -> Sample:
        (folder / name).write_text(text())
        return _alone(folder / name, text=True)

    return make


def rows(matrix: np.ndarray) -> str:
    return "\n".join(" ".join(f"{v:.12g}" for v in row) for row in matrix)


def _ras_rows() -> str:
    return rows(affine_to_ras(affine())) + "\n"


def _afni_line() -> str:
    return "# 3dAllineate matrices:\n" + " ".join(map(str, affine().homogeneous[:3].ravel())) + "\n"


def _xfm() -> str:
    linear = rows(affine_to_ras(affine().inverse())[:3])
    head = "MNI Transform File\n%made by a test\n\n"
    return f"{head}Transform_Type = Linear;\nLinear_Transform =\n{linear};\n"


def _elastix(kind: str, numbers: list[float], more: str) -> str:
    return (
        f'(Transform "{kind}")\n(NumberOfParameters {len(numbers)})\n'
        f"(TransformParameters {' '.join(map(str, numbers))})\n"
        '(InitialTransformParameterFileName "NoInitialTransform")\n'
        '(HowToCombineTransforms "Compose")\n(FixedImageDimension 3)\n(MovingImageDimension 3)\n'
        f"{more}\n"
    )


def _elastix_euler() -> str:
    more = '(CenterOfRotationPoint 3 -7 11)\n(ComputeZYX "false")'
    return _elastix("EulerTransform", list(EULER), more)


def spline_values() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (*KNOTS.shape_zyx, 3))


def _elastix_spline() -> str:
    more = (
        "(GridSize 6 5 4)\n(GridIndex 0 0 0)\n(GridSpacing 6 7 8)\n(GridOrigin -12 -14 -9)\n"
        "(GridDirection 1 0 0 0 1 0 0 0 1)\n(BSplineTransformSplineOrder 3)"
    )
    return _elastix("BSplineTransform", np.moveaxis(spline_values(), -1, 0).ravel().tolist(), more)


def _lta(between_voxels: bool) -> Callable[[Path], Sample]:
    def make(folder: Path) -> Sample:
        path, moving = folder / "t.lta", KNOTS
        write_transform(path, affine(), program="lta", field_grid=GRID, moving_grid=moving)
        if between_voxels:
            ras = affine_to_ras(affine().inverse())
            matrix = np.linalg.inv(voxel_to_ras(GRID)) @ ras @ voxel_to_ras(moving)
            head, rest = path.read_text().split("1 4 4\n")
            text = head.replace("= 1 # LINEAR_RAS", "= 0 # LINEAR_VOX", 1)
            path.write_text(f"{text}1 4 4\n{rows(matrix)}\nsrc{rest.partition('src')[2]}")
        return _alone(path, text=True)

    return make


def _written(name: str, linear: bool = False, program: str | None = None) -> Callable[..., Sample]:
    """By carl itself, unpacked: damage to packed bytes seldom reaches what stands within."""

    def make(folder: Path) -> Sample:
        made = affine() if linear else displacement()
        for side, grid in (("fixed", GRID), ("moving", KNOTS)):
            zeros = Image(np.zeros(grid.shape_zyx, np.uint8), grid)
            write_image(folder / f"{side}.nii", zeros)
        write_transform(
            folder / name, made, program=program, field_grid=GRID, moving_grid=KNOTS  # type: ignore[arg-type]
        )  # fmt: skip
        return _alone(folder / name, text=linear and not name.endswith(".x5"))

    return make


def _nifti(intent: int, name: str = "", p1: int = 0, knots: bool = False) -> Callable[..., Sample]:
    """(x, y, z, 1, 3) numbers in RAS, positions unless p1 is 1."""

    def make(folder: Path) -> Sample:
        grid = KNOTS if knots else GRID
        values = spline_values() if knots else displacement().displacement_mm.astype(float)
        held = flip_vectors(values + (0 if p1 == 1 else grid.points_mm()))
        stored = held.transpose(2, 1, 0, 3)[:, :, :, None]
        made = nibabel.Nifti1Image(stored.astype(np.float32), voxel_to_ras(grid))
        made.header["intent_code"], made.header["intent_name"] = intent, name
        made.header["intent_p1"] = p1
        made.to_filename(folder / "field.nii")
        return _alone(folder / "field.nii")

    return make


def _coefficients(folder: Path) -> Sample:
    """Of FNIRT: knots every fourth voxel, the first affine in the sform."""
    _written("unused.mat", linear=True, program="fsl")(folder)
    size = tuple(n // 4 + 4 for n in GRID.size_xyz)
    values = np.random.default_rng(2).normal(0, 2, (*size, 3)).astype(np.float32)
    made = nibabel.Nifti1Image(values, None)
    made.header["intent_code"] = 2007
    made.header.set_zooms((4, 4, 4, 1))
    made.set_sform(affine_to_ras(affine()), 1)
    made.to_filename(folder / "coefficients.nii")
    return _alone(folder / "coefficients.nii")


def _dicom(linear: bool) -> Callable[[Path], Sample]:
    def make(folder: Path) -> Sample:
        from carl_cli.io.transforms.dicom_registration import write_registration

        fixed = dicom_folder(folder / "fixed")
        moving = dicom_folder(folder / "moving", FrameOfReferenceUID=fresh_uid())
        path = folder / "registration.dcm"
        made = affine() if linear else displacement()
        write_registration(path, made, fixed, moving, keep_identity=False)
        return _alone(path, text=True)

    return make


def _euler_text() -> str:
    numbers, fixed = " ".join(map(str, EULER)), "3 -7 11 0"
    head = "#Insight Transform File V1.0\n#Transform 0\nTransform: Euler3DTransform_double_3_3\n"
    return f"{head}Parameters: {numbers}\nFixedParameters: {fixed}\n"


def _series(folder: Path) -> Sample:
    sitk.WriteImage(sitk.JoinSeries([to_sitk(image())] * 2), str(folder / "volumes.nii"))
    write_series(folder / "series.h5", [affine(), displacement()])
    return _alone(folder / "series.h5")


def _image(name: str) -> Callable[[Path], Sample]:
    def make(folder: Path) -> Sample:
        write_image(folder / name, image())
        return _alone(folder / name, text=name.endswith(".mif"))

    return make


def _minc(folder: Path) -> Sample:
    content = (Path(nibabel.__file__).parent / "tests/data/small.mnc").read_bytes()
    (folder / "small.mnc").write_bytes(content)
    return _alone(folder / "small.mnc")


def _warped(path: Path, out: Path) -> Words:
    end = ["-n", "nearest", "--strict", "-o", out / "out.nrrd"]
    return ["warp", path, "-r", path, *end]


# Surfaces and streamlines

FACES = np.array([[0, 1, 2], [0, 2, 3], [1, 3, 2]], np.int32)


def _gii(path: Path) -> None:
    arrays = [
        nibabel.gifti.GiftiDataArray(POINTS.astype("f4"), "NIFTI_INTENT_POINTSET"),
        nibabel.gifti.GiftiDataArray(FACES, "NIFTI_INTENT_TRIANGLE"),
    ]
    nibabel.save(nibabel.GiftiImage(darrays=arrays), path)


def _white(path: Path) -> None:
    volume = {
        "head": np.array([2, 0, 20], np.int32), "valid": "1  # volume info valid", "filename": "x",
        "volume": np.array([60, 70, 80]), "voxelsize": np.array([1.0, 1.2, 0.9]),
        "xras": [1, 0, 0], "yras": [0, 1, 0], "zras": [0, 0, 1], "cras": np.array([5.0, -3, 8]),
    }  # fmt: skip
    nibabel.freesurfer.write_geometry(path, POINTS, FACES, volume_info=volume)


def _lines(path: Path) -> None:
    held = nibabel.streamlines.Tractogram([POINTS, POINTS[:2]], affine_to_rasmm=np.eye(4))
    nibabel.streamlines.save(held, str(path))


def _mesh(path: Path) -> None:
    import trimesh

    trimesh.Trimesh(POINTS, FACES, process=False).export(path)


# Tables

LUT = "1 Left-Brain 10 20 30 0\n2 Right-Brain 40 50 60 0\n"
SNAP = '1 10 20 30 1 1 1 "left brain"\n2 40 50 60 1 1 1 "right brain"\n'
CSV = "index,name,color\n1,left brain,#0a141e\n2,right brain,#28323c\n"
NNUNET = '{"labels": {"background": 0, "left": 1, "right": 2}}'
LABELS = (
    '<?xml version="1.0"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
    '<Label Key="1" Red="0.1" Green="0.2" Blue="0.3" Alpha="1">left</Label>'
    '<Label Key="2" Red="0.4" Green="0.5" Blue="0.6" Alpha="1">right</Label>'
    "</LabelTable></VolumeInformation></CaretExtension>"
)


def _labelled(folder: Path) -> Path:
    write_image(folder / "image.nii", image())
    labels = Image((image().array % 3).astype(np.uint8), GRID)
    write_image(folder / "labels.nii", labels)
    untrained_weights(folder / "weights")
    return folder


def _names(name: str, text: str) -> Dialect:
    def make(folder: Path) -> Sample:
        (_labelled(folder) / name).write_text(text)
        return _alone(folder / name, text=True)

    return Dialect(make, _dry_run, codes=(2, 3), table=True)


def _headed(folder: Path) -> Sample:
    made = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    made.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, LABELS.encode()))
    (_labelled(folder) / "names.nii").write_bytes(made.to_bytes())
    return _alone(folder / "names.nii", text=True)


def _dry_run(path: Path, out: Path) -> Words:
    at = path.parent
    segs: Words = ["--fixed-seg", at / "labels.nii", "--moving-seg", at / "labels.nii"]
    call: Words = ["register", at / "image.nii", at / "image.nii", "--weights", at / "weights"]
    return [*call, *segs, "--label-names", path, "-o", out / "t.h5", "--dry-run"]


PAIRS = "id,fixed,moving,transform,io\na,image.nii,labels.nii,rigid,\nb,labels.nii,image.nii,,yes\n"


def _pairs(folder: Path) -> Sample:
    (_labelled(folder) / "pairs.csv").write_text(PAIRS)
    return _alone(folder / "pairs.csv", text=True)


def _batch(path: Path, out: Path) -> Words:
    weights = path.parent / "weights"
    return ["batch", path, "-o", out / "runs", "--weights", weights, "--dry-run"]


DIALECTS: dict[str, Dialect] = {
    "mgh": Dialect(_image("plain.mgh"), _warped, referees.mgh),
    "mif": Dialect(_image("plain.mif"), _warped, referees.mif),
    "minc": Dialect(_minc, _warped, referees.minc),
    "x5 affine": Dialect(_written("affine.x5", linear=True), convert, referees.x5),
    "x5 field": Dialect(_written("field.x5"), convert, referees.x5),
    "lta": Dialect(_lta(False), convert, referees.lta),
    "lta of voxels": Dialect(_lta(True), convert, referees.lta),
    "xfm": Dialect(_text("t.xfm", _xfm), convert, referees.xfm),
    "elastix euler": Dialect(_text("euler.txt", _elastix_euler), convert, referees.elastix),
    "elastix spline": Dialect(_text("spline.txt", _elastix_spline), convert, referees.elastix),
    "euler text": Dialect(_text("euler.tfm", _euler_text), convert, referees.euler),
    "greedy": Dialect(_text("greedy.mat", _ras_rows), _from("greedy"), referees.ras_matrix),
    "niftyreg matrix": Dialect(_text("n.txt", _ras_rows), _from("niftyreg"), referees.ras_matrix),
    "afni": Dialect(_text("afni.1D", _afni_line), _from("afni"), referees.afni),
    "flirt": Dialect(_written("f.mat", True, "fsl"), _from("fsl", pair=True)),
    "afni field": Dialect(_nifti(1007, p1=1), _from("afni"), referees.vectors("lps")),
    "spm": Dialect(_nifti(1007, "Mapping"), convert, referees.vectors("positions", "Mapping")),
    "easyreg": Dialect(_nifti(0), _from("easyreg"), referees.vectors("positions")),
    "synthmorph": Dialect(_nifti(0, p1=1), _from("synthmorph"), referees.vectors("ras")),
    "mrtrix field": Dialect(_written("m.mif", program="mrtrix"), _from("mrtrix")),
    "niftyreg": Dialect(_nifti(1007, "NREG_TRANS"), _from("niftyreg"), referees.niftyreg),
    "niftyreg steps": Dialect(_nifti(1007, "NREG_TRANS", 1), _from("niftyreg"), referees.niftyreg),
    "niftyreg spline": Dialect(
        _nifti(1007, "NREG_TRANS", 2, knots=True), _from("niftyreg"), referees.niftyreg
    ),
    "fnirt": Dialect(_written("f.nii", program="fsl"), _from("fsl", pair=True)),
    "fnirt spline": Dialect(_coefficients, _from("fsl", pair=True)),
    "mgh warp": Dialect(_written("w.mgh", program="synthmorph"), convert, referees.mgh_warp),
    "dicom rigid": Dialect(_dicom(linear=True), convert, referees.dicom_matrices),
    "dicom deformable": Dialect(_dicom(linear=False), convert),
    "h5 series": Dialect(
        _series,
        lambda path, out: [
            "warp", path.parent / "volumes.nii", "-t", path, "-o", out / "out.mha"
        ],
    ),
    "gii": _carried("a.gii", _gii),
    "white": _carried("lh.white", _white),
    "tck": _carried("a.tck", _lines),
    "trk": _carried("a.trk", _lines),
    "stl": _carried("a.stl", _mesh),
    "ply": _carried("a.ply", _mesh),
    "obj": _carried("a.obj", _mesh),
    "names lut": _names("lut.txt", LUT),
    "names snap": _names("snap.txt", SNAP),
    "names csv": _names("names.csv", CSV),
    "names json": _names("dataset.json", NNUNET),
    "names header": Dialect(_headed, _dry_run, codes=(2, 3), table=True),
    "pairs": Dialect(_pairs, _batch, codes=(2, 3, 6), table=True),
}  # fmt: skip

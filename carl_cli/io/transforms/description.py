"""What a transform file is, without interpreting its numbers: for `carl info`."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from carl_cli.io.atomic import full_suffix
from carl_cli.io.images import nifti_header as nifti
from carl_cli.io.transforms.elastix import is_elastix
from carl_cli.io.transforms.fields import READABLE as DENSE
from carl_cli.io.transforms.fields import is_spm

TYPE = re.compile(rb"([A-Z][A-Za-z0-9]*Transform)_(float|double)_[23]_[23]")


@dataclass(frozen=True)
class FileFacts:
    """format: in words, with the programs that write it; frame: of the numbers on disk; types:
    ITK's names in file order; precision: float or double where the file says; readers: tool → what
    it makes of the file."""

    format: str
    frame: str
    types: tuple[str, ...]
    precision: str
    readers: dict[str, str]


OTHERS = {
    ".lta": FileFacts(
        "linear transform of FreeSurfer (LTA)",
        "RAS",
        (),
        "",
        {
            "FreeSurfer": "mri_vol2vol --lta",
            "nitransforms": 'read, fmt="fs"',
        },
    ),
    ".xfm": FileFacts("transform of MINC", "RAS", (), "", {"MINC": "mincresample -transform"}),
    ".mgz": FileFacts(
        "warp of FreeSurfer in MGH",
        "RAS",
        (),
        "",
        {"FreeSurfer": "mri_synthmorph apply", "surfa": "load_warp"},
    ),
    ".dcm": FileFacts(
        "DICOM registration object",
        "LPS",
        (),
        "",
        {"DICOM viewers": "a registration of two series"},
    ),
    ".x5": FileFacts("X5 transform", "RAS", (), "", {"nitransforms": 'read, fmt="X5"'}),
}


def describe_file(path: Path) -> FileFacts:
    """By suffix and header; the file is one that `read_transform` can read."""
    suffix = full_suffix(path).lower().replace(".mgh", ".mgz")
    if suffix in OTHERS:
        return OTHERS[suffix]
    if suffix == ".txt" and is_elastix(path.read_bytes()):
        return FileFacts("parameter file of elastix", "LPS", (), "", {"elastix": "transformix -tp"})
    if suffix.startswith(".nii"):
        return _nifti(path)
    if suffix in DENSE:
        return FileFacts("dense displacement field", "LPS", (), "", _image_readers(suffix))
    found = _itk_types(path)
    types = tuple(name for name, _ in found)
    precision = found[0][1] if found else ""
    if suffix in (".h5", ".hdf5"):
        return FileFacts("ITK HDF5 transform", "LPS", types, precision, _hdf5(suffix, types))
    name = "ITK Matlab transform" if suffix == ".mat" else "ITK text transform"
    return FileFacts(name, "LPS", types, precision, _affine(suffix))


def ways(name: str, affine: bool) -> dict[str, str]:
    """Tool → the command that makes the file readable for it."""
    field = "-r FIXED -o T.nii.gz"
    pair = "-r FIXED -m MOVING -o"
    options = {
        "ANTs, ITK, 3D Slicer": "-o T.h5",
        "FSL": f"--to fsl {pair} {'T.mat' if affine else 'T.nii.gz'}",
        "FreeSurfer": f"--to {f'lta {pair} T.lta' if affine else f'synthmorph {pair} T.nii.gz'}",
        "SPM": "--to spm -r FIXED -o y_T.nii",
        "NiftyReg": f"--to niftyreg {'-o T.txt' if affine else field}",
        "MRtrix": f"--to mrtrix {'-o T.txt' if affine else field}",
        "greedy": "--to greedy -o T.mat" if affine else field,
    }
    return {tool: f"carl convert {name} {option}" for tool, option in options.items()}


def _itk_types(path: Path) -> list[tuple[str, str]]:
    """Names of transform types in the order in which they stand in the file."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [(match[1].decode(), match[2].decode()) for match in TYPE.finditer(data)]


def _nifti(path: Path) -> FileFacts:
    header = nifti.read_header(path)
    precision = "double" if header.datatype == 64 else "float"
    if is_spm(header):
        kind = "deformation of SPM, NIfTI intent 1007 named Mapping: positions"
        return FileFacts(kind, "RAS", (), precision, {"SPM": "given as a deformation field"})
    if header.intent == nifti.INTENT_DISPLACEMENT:
        readers = {
            "ITK, SimpleITK, ANTs": "displacement field; x and y are flipped on reading",
            "3D Slicer": "displacement field (by its source)",
            "nitransforms": "misread: the RAS numbers are taken for LPS",
        }
        kind = "dense displacement field, NIfTI intent 1006 (DISPVECT)"
        return FileFacts(kind, "RAS", (), precision, readers)
    kind = "dense displacement field, NIfTI intent 1007 (VECTOR)"
    return FileFacts(kind, "LPS", (), precision, _image_readers(".nii"))


def _image_readers(suffix: str) -> dict[str, str]:
    readers = {
        "ANTs": "displacement field, given with -t",
        "SimpleITK": "an image: DisplacementFieldTransform(ReadImage(...)), not ReadTransform",
    }
    if suffix == ".nii":
        readers["greedy"] = "warp, given with -r"
        readers["3D Slicer"] = "displacement field in LPS, with a warning (by its source)"
        readers["nitransforms"] = 'displacement field, fmt="itk"; no points outside its grid'
    else:
        readers["3D Slicer"] = "displacement field (by its source)"
    return readers


def _hdf5(suffix: str, types: tuple[str, ...]) -> dict[str, str]:
    composite = types[:1] == ("CompositeTransform",)
    plain = set(types) <= {"CompositeTransform", "AffineTransform", "DisplacementFieldTransform"}
    single = composite or len(types) == 1
    strict = composite and plain and suffix == ".h5"
    return {
        "ANTs": "given with -t",
        "ITK, SimpleITK": "ReadTransform",
        "3D Slicer": "read (by its source)" if single else "refused: several at the top level",
        "nitransforms": "read; between a field's voxels by splines, by all others linearly"
        if strict
        else "not read: it wants a composite of affines and fields in a file named .h5",
        "greedy": "not read: convert to .nii.gz",
    }


def _affine(suffix: str) -> dict[str, str]:
    return {
        "ANTs": "given with -t",
        "ITK, SimpleITK": "ReadTransform",
        "3D Slicer": "read (by its source)",
        "nitransforms": 'read, fmt="itk"' if suffix != ".mat" else 'read, fmt="itk" (binary)',
        "greedy": "not read: carl convert --to greedy",
    }

"""Attacks on what came later: tables of labels, X5 and other programs' transforms, series,
templates, trainings; each kind by a generator of its own."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.io.images.files import Image, to_sitk, write_image
from carl_cli.io.transforms.files import read_transform, write_series, write_transform
from carl_cli.transforms import DisplacementField
from tests.cli.weights_folder import untrained_weights
from tests.faults.judge import fingerprint
from tests.faults.runner import Server
from tests.faults.samples import GRID, affine, displacement, image
from tests.faults.test_attacks import piped, refused
from tests.training.conftest import RULE, images_data

SECONDS = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


# Names of labels

DEEP = "[" * 100_000
BILLION = "".join(
    f'<!ENTITY {b} "{f"&{a};" * 30}">' for a, b in zip("abcdef", "bcdefg", strict=True)
)
LABEL = '<LabelTable><Label Key="1" Red="{}" Green="0" Blue="0">{}</Label></LabelTable>'


def headed(text: str) -> bytes:
    """A NIfTI file with this text in an extension of its header."""
    made = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    made.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, text.encode()))
    return bytes(made.to_bytes())


NO_NAMES: dict[str, str | bytes] = {
    "long cell.csv": f"index,name\n1,{'a' * 140_000}\n",
    "no name.csv": "index,name\n1\n",
    "underscore.csv": "index,name\n1_0,a\n",
    "5000 digits.csv": f"index,name\n{'9' * 5000},a\n",
    "fraction.csv": "index,name\n1.5,a\n",
    "deep.json": DEEP,
    "infinite.json": '{"labels": {"a": 1e400}}',
    "fraction.json": '{"labels": {"a": 1.7}}',
    "truth.json": '{"labels": {"a": true}}',
    "half a letter.json": '{"labels": {"\\ud800": 1}}',
    "colour.txt": f"1 name {'9' * 5000} 2 3 0\n",
    "empty page.txt": "\n" * 300_000 + "x\n",
    "infinite.nii": headed(LABEL.format("inf", "a")),
    "laughs.nii": headed(f"<!DOCTYPE x [{BILLION}]>{LABEL.format(0, '&g;')}"),
}  # fmt: skip


@pytest.fixture
def labelled(tmp_path: Path, weights: Path) -> list[object]:
    """A dry run of two images with labels, which lacks the table of their names."""
    write_image(tmp_path / "image.nii.gz", image())
    write_image(tmp_path / "labels.nii.gz", image("uint8"))
    segs = [word for side in ("fixed", "moving") for word in (f"--{side}-seg", "labels.nii.gz")]
    call = ["register", "image.nii.gz", "image.nii.gz", "--weights", weights, *segs]
    return [*call, "-o", tmp_path / "t.h5", "--dry-run", "--label-names"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_tables_of_labels_that_are_none(
    heavy: Server, labelled: list[object], tmp_path: Path, name: str
) -> None:
    text = NO_NAMES[name]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    ended = heavy.run([*labelled, name], tmp_path, 20)
    refused(ended, 3, name)
    assert ended.grown_bytes < 2**29


@pytest.mark.parametrize("name", ["pipe.txt", "pipe.json", "pipe.nii.gz", "/dev/zero"])
def test_tables_of_labels_are_files(
    heavy: Server, labelled: list[object], tmp_path: Path, name: str
) -> None:
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    refused(heavy.run([*labelled, name], tmp_path, 20), 3, f"{name} is not a file")


def test_a_label_of_two_names_is_told(
    heavy: Server, labelled: list[object], tmp_path: Path
) -> None:
    (tmp_path / "n.csv").write_text("index,name\n1,a\n1,b\n")
    ended = heavy.run([*labelled, "n.csv"], tmp_path, SECONDS)
    assert ended.code == 0, ended.err
    assert "a label stands there twice" in ended.err


# X5

FIELD, MATRIX = "TransformGroup/0/Transform", "TransformGroup/0/Domain/Mapping"
SHAPE = (*GRID.size_xyz, 3)
Change = Callable[[h5py.File, Path], object]


def replaced(name: str, value: object) -> Change:
    def change(file: h5py.File, _: Path) -> None:
        del file[name]
        file[name] = value

    return change


def created(**how: object) -> Change:
    """A field of these numbers, of which none is written."""

    def change(file: h5py.File, other: Path) -> None:
        del file[FIELD]
        stored = {"external": [(str(other), 0, h5py.h5f.UNLIMITED)]} if "external" in how else how
        file.create_dataset(FIELD, SHAPE, "f4", **stored)

    return change


def never_written(file: h5py.File, _: Path) -> None:
    del file[FIELD]
    space = h5py.h5s.create_simple(SHAPE)
    h5py.h5d.create(file["TransformGroup/0"].id, b"Transform", h5py.h5t.IEEE_F32LE, space).close()


def described(name: str, value: object, group: str = "TransformGroup/0") -> Change:
    return lambda file, _: file[group].attrs.__setitem__(name, value)


LAST_ROW = np.diag([1.0, 1.0, 1.0, 5.0])
BAD_X5: dict[str, Change] = {
    "in another file": created(external=True),
    "in a lost piece": created(chunks=(6, 10, 6, 3)),
    "never written": never_written,
    "text": replaced(FIELD, "text"),
    "complex": replaced(FIELD, np.ones(SHAPE, complex)),
    "empty": replaced(FIELD, h5py.Empty("f")),
    "of no voxel": replaced(FIELD, np.zeros((0, *SHAPE[1:]), "f4")),
    "of another size": replaced("TransformGroup/0/Domain/Size", np.array(GRID.size_xyz[::-1])),
    "placed by text": replaced(MATRIX, "text"),
    "placed by another row": replaced(MATRIX, LAST_ROW),
    "of two types": described("Type", [1, 2]),
    "of two formats": described("Format", [1, 2], "/"),
    "a number alone": replaced("TransformGroup", 5),
    "an affine of another row": replaced(FIELD, LAST_ROW),
}


@pytest.mark.parametrize("name", BAD_X5)
def test_x5_that_lies_elsewhere_or_is_none(server: Server, tmp_path: Path, name: str) -> None:
    """Of a lost piece, and of what lies elsewhere, the numbers were zeros without a word."""
    path, other = tmp_path / "t.x5", tmp_path / "other"
    kind = affine() if "affine" in name else displacement()
    write_transform(path, kind)
    os.mkfifo(other)
    with h5py.File(path, "r+") as file:
        BAD_X5[name](file, other)
    refused(server.run(["convert", path, "-o", tmp_path / "o.h5"], tmp_path), 3, "t.x5")
    assert not (tmp_path / "o.h5").exists()


def test_sound_x5_is_still_read(server: Server, tmp_path: Path) -> None:
    for name, made in (("a.x5", affine()), ("d.x5", displacement())):
        write_transform(tmp_path / name, made)
        call = ["convert", tmp_path / name, "-o", tmp_path / f"{name}.h5"]
        assert server.run(call, tmp_path).code == 0
        points = GRID.points_mm()
        gap = read_transform(tmp_path / f"{name}.h5")(points) - made(points)
        assert np.abs(gap).max() < 1e-4


# Fields of other programs

FOREIGN = ("niftyreg", "easyreg", "spm", "mrtrix", "synthmorph", "afni")


@pytest.mark.parametrize("program", FOREIGN)
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_fields_of_other_programs_are_finite(
    server: Server, tmp_path: Path, program: str, value: float
) -> None:
    """They came through as they were: NaN reached the warped image without a word."""
    path = tmp_path / "v.nii.gz"
    numbers = np.zeros((*GRID.size_xyz, 1, 3), np.float32)
    numbers[3, 4, 2, 0, 1] = value
    made = nibabel.Nifti1Image(numbers, np.eye(4))
    made.header["intent_name"] = b"NREG_TRANS"
    made.header["intent_p1"] = 1
    made.to_filename(path)
    call = ["convert", "--from", program, path, "-o", tmp_path / "o.h5"]
    refused(server.run(call, tmp_path), 3, "v.nii.gz")


@pytest.mark.parametrize(("kind", "value"), [(2.0, np.nan), (2.0, 3e38), (np.nan, 0), (np.inf, 0),
                                             (0.7, 0), (-1, 0)])  # fmt: skip
def test_fields_of_niftyreg_say_what_they_are(
    server: Server, tmp_path: Path, kind: float, value: float
) -> None:
    """kind: intent_p1, of which 2 means control points."""
    path = tmp_path / "v.nii.gz"
    write_transform(path, displacement(), program="niftyreg", field_grid=GRID)
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<f", content, 56, kind)
    struct.pack_into("<f", content, 400, value)
    path.write_bytes(gzip.compress(bytes(content)))
    call = ["convert", "--from", "niftyreg", path, "-o", tmp_path / "o.h5"]
    refused(server.run(call, tmp_path), 3, "v.nii.gz")


def test_a_field_whose_inverse_no_grid_holds(server: Server, tmp_path: Path) -> None:
    """It ended as a bug: an array of 10¹⁸ voxels."""
    wild = np.random.default_rng(0).normal(0, 1e6, (*GRID.shape_zyx, 3)).astype(np.float32)
    write_transform(tmp_path / "wild.nii.gz", DisplacementField(GRID, wild))
    call = ["invert", tmp_path / "wild.nii.gz", "-o", tmp_path / "o.nii.gz"]
    refused(server.run(call, tmp_path), 3, "so far that its inverse takes")


def series_file(group: str, name: str, value: object) -> Change:
    return replaced(f"TransformGroup/{group}/Transform{name}", value)


BAD_SERIES: dict[str, Change] = {
    "text": series_file("1", "Parameters", "text"),
    "empty": series_file("1", "Parameters", h5py.Empty("f")),
    "a number for a type": series_file("1", "Type", 7),
    "another dimension": series_file("1", "Type", [b"AffineTransform_double_2_2"]),
    "no type of ours": series_file("1", "Type", [b"Evil_double_3_3"]),
    "eleven numbers": series_file("1", "Parameters", np.zeros(11)),
    "nan": series_file("1", "Parameters", np.full(12, np.nan)),
}


@pytest.mark.parametrize("name", BAD_SERIES)
def test_transforms_of_a_series_that_are_none(server: Server, tmp_path: Path, name: str) -> None:
    path, volume = tmp_path / "s.h5", tmp_path / "series.nii.gz"
    write_series(path, [affine()] * 2)
    sitk.WriteImage(sitk.JoinSeries([to_sitk(image())] * 2), str(volume))
    with h5py.File(path, "r+") as file:
        BAD_SERIES[name](file, tmp_path)
    refused(server.run(["warp", volume, "-t", path, "-o", tmp_path / "w.mha"], tmp_path), 3, "s.h5")
    assert not (tmp_path / "w.mha").exists()


# Numbers of volumes


@pytest.mark.parametrize("text", ["\u00b2", "\u0663", "9" * 5000, "--1", "99", "-1"])
def test_references_that_a_series_has_not(heavy: Server, tmp_path: Path, text: str) -> None:
    volumes = [sitk.GetImageFromArray(image("float32").array) for _ in "12"]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "series.nii.gz"))
    call = ["series", "series.nii.gz", "-o", tmp_path / "o.nii.gz", f"--reference={text}"]
    ended = heavy.run([*call, "--dry-run"], tmp_path, SECONDS)
    refused(ended, 2 if text in ("99", "-1") else 3)


BOUNDED = (
    ("template", "a", "-o", "T.nii.gz", "--sharpen=inf"),
    ("train", "c.toml", "--max-seconds=inf"),
    ("train", "prepare", "f", "-o", "o.npz", "--spacing=inf"),
)


@pytest.mark.parametrize("words", BOUNDED)
def test_bounded_numbers_are_finite(heavy: Server, tmp_path: Path, words: tuple[str, ...]) -> None:
    refused(heavy.run([*words], tmp_path, SECONDS), 2, words[-1].partition("=")[0])
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_series_asks_for_the_weights(heavy: Server, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.JoinSeries([to_sitk(image())] * 2), str(tmp_path / "series.nii.gz"))
    call = ["series", "series.nii.gz", "-o", "o.nii.gz", "--dry-run", "--transform", "deformable"]
    refused(heavy.run([*call, "--weights", "nonsense"], tmp_path, SECONDS), 4)


# Templates


@pytest.mark.parametrize("how", ["--overwrite", "--resume"])
@pytest.mark.parametrize(
    ("out", "more"),
    [
        ("a.nii.gz", ()),
        ("T.nii.gz", ("--initial", "T_variance.nii.gz")),
        ("T.nii.gz", ("--labels", "T_labels.nii.gz", "--labels", "b.nii.gz")),
    ],
)
def test_a_template_takes_no_input_s_place(
    heavy: Server, tmp_path: Path, weights: Path, how: str, out: str, more: tuple[str, ...]
) -> None:
    """It replaced the image that it was made of."""
    for name in ("a", "b", "T_variance", "T_labels"):
        write_image(tmp_path / f"{name}.nii.gz", image())
    before = fingerprint(tmp_path)
    call = ["template", "a.nii.gz", "b.nii.gz", "--weights", weights, "-o", out, how, *more]
    refused(heavy.run(call, tmp_path, SECONDS), 2, "named twice")
    assert fingerprint(tmp_path) == before


GROUPS = {
    "a column twice": "image,image\na.nii.gz,b.nii.gz\nb.nii.gz,a.nii.gz\n",
    "a file of the round": "id,image\npairs.csv,a.nii.gz\nb,b.nii.gz\n",
    "the template of the round": "id,image\ntemplate.nii.gz,a.nii.gz\nb,b.nii.gz\n",
    "a slice": "image\na.nii.gz\nslice.nrrd\n",
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_that_are_none(heavy: Server, tmp_path: Path, weights: Path, name: str) -> None:
    for letter in "ab":
        write_image(tmp_path / f"{letter}.nii.gz", image())
    disc = np.pad(np.ones((16, 16), np.float32), 8)
    sitk.WriteImage(sitk.GetImageFromArray(disc), str(tmp_path / "slice.nrrd"))
    (tmp_path / "t.csv").write_text(GROUPS[name])
    call = ["template", "t.csv", "--weights", weights, "-o", "T.nii.gz", "--dry-run"]
    refused(heavy.run(call, tmp_path, SECONDS), 3)


def test_a_learning_rate_beyond_all_numbers(heavy: Server, tmp_path: Path, weights: Path) -> None:
    for letter in "ab":
        write_image(tmp_path / f"{letter}.nii.gz", image())
    (tmp_path / "t.csv").write_text("image\na.nii.gz\nb.nii.gz\n")
    call = ["train", "--from", weights, "t.csv", "--learning-rate", "1e300", "--out", "run"]
    refused(heavy.run(call, tmp_path, SECONDS), 2, "at most 1")


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_labels_of_a_template_are_read_first(
    heavy: Server, tmp_path: Path, weights: Path, value: float
) -> None:
    """They were read when all rounds were done, and a dry run said that they can be used."""
    labels = np.full(image().array.shape, value, np.float32)
    write_image(tmp_path / "l.nii.gz", Image(labels, GRID))
    for name in "ab":
        write_image(tmp_path / f"{name}.nii.gz", image())
    call = ["template", "a.nii.gz", "b.nii.gz", "--weights", weights, "-o", "T.nii.gz"]
    both = ["--labels", "l.nii.gz", "--labels", "l.nii.gz"]
    refused(heavy.run([*call, *both], tmp_path, SECONDS), 3, "l.nii.gz")
    (tmp_path / "T_transforms").write_text("mine")
    refused(heavy.run(call, tmp_path, SECONDS), 7, "T_transforms is a file")


# Folders that can't be made


@pytest.mark.parametrize(
    "words",
    [
        ("demo", "-o", "taken"),
        ("demo", "-o", "taken/x"),
        ("train", "--from", "{weights}", "images", "--steps", "1", "--out", "taken"),
    ],
)
def test_a_file_where_a_folder_should_be(
    heavy: Server, tmp_path: Path, weights: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "images").mkdir()
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.nii.gz", image())
    call = [word.format(weights=weights) for word in words]
    if call[0] == "demo":
        call += ["--weights", str(weights)]
    refused(heavy.run([*call], tmp_path, SECONDS), 7, "can't be made")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(("name", "code"), [("nonsense", 4), ("carl-base-2d", 2)])
def test_a_demo_without_its_weights_leaves_no_folder(
    heavy: Server, tmp_path: Path, name: str, code: int
) -> None:
    refused(heavy.run(["demo", "-o", "d", "--weights", name], tmp_path, SECONDS), code)
    assert list(tmp_path.iterdir()) == []


# Trainings

BAD_TABLES: dict[str, bytes] = {
    "no text": b"image\n\xff\xfe\n",
    "a long cell": b"image\n" + b"a" * 200_000 + b"\nb.nii.gz\n",
    "no name of a file": b"image\na.nii.gz\0\nb.nii.gz\n",
    "too many cells": b"picture\na.nii.gz,x\n",
    "too few cells": b"fixed,moving\na.nii.gz\nb.nii.gz,a.nii.gz\n",
    "nothing": b"",
    "a header alone": b"image\n",
    "a column twice": b"image,image\na.nii.gz,b.nii.gz\nb.nii.gz,a.nii.gz\n",
    "a slice": b"image\nslice.nrrd\na.nii.gz\n",
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_tables_of_a_training(heavy: Server, tmp_path: Path, weights: Path, name: str) -> None:
    for letter in "ab":
        write_image(tmp_path / f"{letter}.nii.gz", image())
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(30)), str(tmp_path / "slice.nrrd"))
    (tmp_path / "t.csv").write_bytes(BAD_TABLES[name])
    call = ["train", "--from", weights, "t.csv", "--steps", 1, "--out", "run"]
    refused(heavy.run(call, tmp_path, SECONDS), 3)
    assert not (tmp_path / "run" / "weights").exists()


BAD_CONFIGS = {
    "deep": f"a = {DEEP}",
    "5000 digits": f"seed = {'9' * 5000}",
    "a name that leads out": '[[stages]]\nname = "a"\nsteps = 1\nloss = { dice = 1.0 }\n'
    "shape_zyx = [16, 16, 16]\n",
}


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_configs_that_are_none(heavy: Server, tmp_path: Path, name: str, command: str) -> None:
    (tmp_path / "c.toml").write_text('name = "../../out"\n' + BAD_CONFIGS[name])
    protocol = ["evaluate", "protocol", "c.toml", "--data", ".", "--out-dir", "run"]
    call = ["train", "c.toml"] if command == "train" else protocol
    refused(heavy.run([*call], tmp_path, SECONDS), 2 if "name" in name else 3, "c.toml")
    assert not (tmp_path.parent.parent / "out").exists()


def test_a_config_is_a_file(heavy: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.toml")
    for path in ("c.toml", "/dev/zero"):
        refused(heavy.run(["train", path, "--out", "run"], tmp_path, 20), 3, "is not a file")


MAPS: dict[str, tuple[str, float, tuple[int, ...]]] = {
    "fractions": ("a.nii.gz", 0.5, (4, 4, 4)),
    "a table's name": ("values.nii.gz", 1, (4, 4, 4)),
    "a name that is taken": ("b.nrrd", 1, (4, 4, 4)),
    "two dimensions": ("a.nrrd", 1, (4, 4)),
}


@pytest.mark.parametrize("name", MAPS)
def test_label_maps_that_are_none(heavy: Server, tmp_path: Path, name: str) -> None:
    """They became label 0, took another subject's place or ended as a bug."""
    file, value, shape = MAPS[name]
    (tmp_path / "maps").mkdir()
    sound = np.eye(4, dtype=np.uint8)[None].repeat(4, 0)
    sitk.WriteImage(sitk.GetImageFromArray(sound), str(tmp_path / "maps" / "b.nii.gz"))
    made = np.full(shape, value, np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(made), str(tmp_path / "maps" / file))
    call = ["train", "prepare", "maps", "-o", "o.npz", "--spacing", 1]
    refused(heavy.run(call, tmp_path, SECONDS), 3, file)
    assert not (tmp_path / "o.npz").exists()


def test_prepared_label_maps_replace_nothing(heavy: Server, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    sound = np.eye(4, dtype=np.uint8)[None].repeat(4, 0)
    sitk.WriteImage(sitk.GetImageFromArray(sound), str(tmp_path / "maps" / "b.nii.gz"))
    (tmp_path / "o.npz").write_text("mine")
    call = ["train", "prepare", "maps", "--spacing", 1, "-o"]
    refused(heavy.run([*call, "o.npz"], tmp_path, SECONDS), 7, "exists already")
    refused(heavy.run([*call, "o.txt"], tmp_path, SECONDS), 2, "o.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps", "o.npz"]
    assert (tmp_path / "o.npz").read_text() == "mine"
    assert heavy.run([*call, "o.npz", "--overwrite"], tmp_path, SECONDS).code == 0
    with np.load(tmp_path / "o.npz") as found:
        assert np.array_equal(found["b"], sound)


def stored(content: bytes) -> Change:
    """A checkpoint of these bytes, its hash in order."""

    def change(_: h5py.File, run: Path) -> None:
        (run / "best-x.pt").write_bytes(content)
        index = {"file": "best-x.pt", "sha256": hashlib.sha256(content).hexdigest()}
        (run / "best.json").write_text(json.dumps(index))

    return change


def indexed(text: str) -> Change:
    return lambda _, run: (run / "best.json").write_text(text)


def state(value: object) -> Change:
    def change(_: h5py.File, run: Path) -> None:
        from carl_cli.training.run_folder import save_state

        save_state(run, "best", value)  # type: ignore[arg-type]

    return change


def waiting(_: h5py.File, run: Path) -> None:
    indexed('{"file": "best-x.pt", "sha256": "x"}')(_, run)
    os.mkfifo(run / "best-x.pt")


CHECKPOINTS: dict[str, Change] = {
    "a list": indexed("[]"),
    "null": indexed("null"),
    "deep": indexed(DEEP),
    "a number for a file": indexed('{"file": 5, "sha256": "x"}'),
    "a pipe": waiting,
    "garbage": stored(b"garbage"),
    "nothing": stored(b""),
    "a program": stored(pickle.dumps(os.system)),
    "an empty state": state({}),
    "a state of a list": state([1, 2]),
    "no config": state({"config": None, "number": 0, "average": {}}),
    "another config": state({"config": {"name": 3}, "number": 0, "average": {}}),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_that_are_none(heavy: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    CHECKPOINTS[name](None, tmp_path / "run")
    ended = heavy.run(["train", "export", "run", "-o", "w"], tmp_path, SECONDS)
    refused(ended, 3)
    assert not (tmp_path / "w").exists()


INDEXES = ("{", "[]]", "5", '[{"files": 5}]', '[{"files": ["absent"], "pairs": []}]', DEEP)


@pytest.mark.parametrize("text", INDEXES, ids=range(len(INDEXES)))
def test_a_damaged_index_of_a_cache(tmp_path: Path, text: str) -> None:
    """Read on a machine that has the cache and not the images."""
    from carl_cli.errors import InputError
    from carl_cli.training.data import index_name, read_cache

    data = images_data(images=tmp_path / "gone", cache=tmp_path)
    index_name(data, {}).write_text(text)
    with pytest.raises(InputError, match="the cache is damaged"):
        read_cache(data, {})


def test_a_cache_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    """Issue 19: every *.npy of the folder was deleted, the user's own too."""
    from carl_cli.training.cache import fill_cache

    images, cache = tmp_path / "images", tmp_path / "cache"
    for folder in (images, cache):
        folder.mkdir()
    for name in "ab":
        write_image(images / f"{name}.nii.gz", image())
    mine = {cache / name: name for name in ("mine.npy", "index-mine.json", "a.npy")}
    for path, text in mine.items():
        path.write_text(text)
    data = images_data(images=images, cache=cache)
    for shape in ((8, 8, 8), (16, 16, 16)):
        fill_cache(data, {**RULE, "shape_zyx": shape})
    assert {path: path.read_text() for path in mine} == mine


def test_weights_of_a_pipe(heavy: Server, tmp_path: Path) -> None:
    folder = untrained_weights(tmp_path / "weights")
    piped(folder / "model.safetensors")
    write_image(tmp_path / "a.nii.gz", image())
    write_image(tmp_path / "b.nii.gz", image())
    (tmp_path / "t.csv").write_text("image\na.nii.gz\nb.nii.gz\n")
    call = ["train", "--from", folder, "t.csv", "--steps", 1, "--out", "run"]
    refused(heavy.run(call, tmp_path, SECONDS), 4)

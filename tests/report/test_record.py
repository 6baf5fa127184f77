"""The run record: what it says is true, survives the disk and stays valid JSON."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from carl_cli.errors import InputError, OutputError
from carl_cli.geometry import Grid
from carl_cli.io.atomic import sha256_of
from carl_cli.report import record as record_module
from carl_cli.report.process import command_line, package_versions
from carl_cli.report.record import (
    Environment,
    ErrorSummary,
    InputFile,
    Metrics,
    RunRecord,
    Similarity,
    StructureScore,
    input_file,
    output_files,
    read_record,
    write_record,
)


def small_record(**changes: object) -> RunRecord:
    values = {
        "command": "carl register a.nii b.nii -o t.h5",
        "environment": Environment.current("cpu", threads=2),
        "inputs": {"fixed": InputFile(path="a.nii", sha256="0" * 64)},
    }
    return RunRecord.model_validate(values | changes)


def test_round_trip_keeps_every_value(tmp_path: Path) -> None:
    metrics = Metrics(
        similarity_before=Similarity(lncc=0.1, ncc=0.2, nmi=1.1),
        folded_percent=0.25,
        inverse_consistency_mm=ErrorSummary(mean=0.1, p95=0.3, max=1.5),
        structures=[StructureScore(label="liver", dice_before=0.5, dice=0.75, hd95_mm=4.0)],
    )
    record = small_record(metrics=metrics, io_loss=[1.0, 0.5], timings_s={"network": 1.25})
    write_record(tmp_path / "run.json", record)
    assert read_record(tmp_path / "run.json") == record


def test_undefined_numbers_become_null_not_nan(tmp_path: Path) -> None:
    record = small_record(
        metrics=Metrics(sdlogj=math.nan, folded_percent=math.inf), io_loss=[math.nan]
    )
    write_record(tmp_path / "run.json", record)
    strict = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert strict["metrics"]["sdlogj"] is None
    assert strict["metrics"]["folded_percent"] is None
    assert strict["io_loss"] == [None]


def test_hash_is_the_bytes_hash_and_ignores_names_in_a_folder(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in ((one, "ab"), (two, "yx")):
        folder.mkdir()
        (folder / names[0]).write_bytes(b"slice 1")
        (folder / names[1]).write_bytes(b"slice 2")
    assert sha256_of(one / "a") == hashlib.sha256(b"slice 1").hexdigest()
    assert sha256_of(one) == sha256_of(two)
    (two / "x").write_bytes(b"slice 3")
    assert sha256_of(one) != sha256_of(two)


def test_input_file_carries_the_geometry(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(b"1")
    grid = Grid((4, 5, 6), (1.0, 2.0, 3.0), (-7.0, 8.0, 9.0), (0, 1, 0, 1, 0, 0, 0, 0, 1))
    entry = input_file(path, grid, dtype="int16")
    assert entry.size == (4, 5, 6)
    assert entry.spacing == (1.0, 2.0, 3.0)
    assert entry.origin == (-7.0, 8.0, 9.0)
    assert entry.direction == (0, 1, 0, 1, 0, 0, 0, 0, 1)
    assert (entry.dtype, entry.modality, entry.intensity_window) == ("int16", "", None)


def test_names_that_are_not_utf8_still_make_json(tmp_path: Path) -> None:
    path = tmp_path / "h\udce9ad.nii"
    path.write_bytes(b"1")
    record = small_record(outputs=output_files({"warped": path}))
    write_record(tmp_path / "run.json", record)
    assert read_record(tmp_path / "run.json").outputs["warped"].path.endswith("h\ufffdad.nii")


def test_command_line_can_be_pasted() -> None:
    words = ["/opt/venv/bin/carl", "register", "my head.nii", "it's.nii", "-o", "$HOME.h5"]
    assert shlex.split(command_line(words)) == ["carl", *words[1:]]


def test_a_module_that_is_run_goes_by_the_name_of_the_command() -> None:
    words = [str(Path(record_module.__file__).parents[1] / "cli" / "app.py"), "batch", "a.csv"]
    assert command_line(words) == "carl batch a.csv"
    assert command_line(["/home/a/study.py", "x"]) == "study.py x"


def test_spread_agrees_with_numpy_and_leaves_undefined_values_out() -> None:
    values = np.array([3.0, 1.0, np.nan, 2.0, np.inf])
    spread = ErrorSummary.of(values)
    assert spread.mean == pytest.approx(2.0)
    assert spread.p95 == pytest.approx(np.percentile([1, 2, 3], 95))
    assert spread.max == 3.0
    assert ErrorSummary.of([]).mean is None


def test_mean_dice_leaves_unscored_structures_out() -> None:
    scores = [StructureScore(label=str(k), dice=d) for k, d in enumerate((0.5, None, 1.0))]
    assert Metrics(structures=scores).mean_dice == pytest.approx(0.75)
    assert Metrics().mean_dice is None


def test_versions_come_from_the_installation_without_imports() -> None:
    code = (
        "import sys; from carl_cli.report import record as r;"
        "print(r.package_versions(['torch', 'no-such-package']));"
        "print([m for m in ('torch', 'SimpleITK', 'itk', 'matplotlib') if m in sys.modules])"
    )
    lines = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert "'no-such-package': 'not installed'" in lines[0]
    assert lines[1] == "[]"
    assert package_versions(["numpy"]) == {"numpy": np.__version__}


def test_peak_memory_sees_an_array() -> None:
    code = (
        "from carl_cli.report.process import peak_memory_mib as p; a = p();"
        "b = b'1' * (200 << 20); del b; print(a, p())"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    before, after = (float(word) for word in output.split())
    assert max(200, before) < after < before + 205


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("not json", "not a run record"),
        ('{"format": "carl-run/1"}', "command is missing"),
        ('{"format": "other/2"}', "format"),
    ],
)
def test_a_foreign_file_is_named_with_its_fault(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=found) as caught:
        read_record(path)
    assert str(path) in caught.value.message
    with pytest.raises(InputError, match="No such file"):
        read_record(tmp_path / "absent.json")


def test_no_half_file_where_the_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_record(tmp_path / "absent" / "run.json", small_record())
    assert list(tmp_path.iterdir()) == []

"""What the sources must not contain, and what files must not be able to do."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.batch.status import StatusRow, write_rows
from carl_cli.errors import CarlError, InputError, WeightsError
from carl_cli.io.csv import inert
from carl_cli.io.images.files import read_any, write_image
from carl_cli.io.transforms.files import read_transform
from carl_cli.report.index import Case, write_index
from carl_cli.weights.folder import load_weights
from tests.cli.weights_folder import untrained_weights
from tests.faults.runner import Server, environment, installed
from tests.faults.samples import dicom_folder, image

PACKAGE = Path(__file__).resolve().parents[2] / "carl_cli"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "marshal.loads",
    "shelve.open", "yaml.load", "os.system", "os.popen", "numpy.load", "np.load", "joblib.load",
    "subprocess.getoutput", "tarfile.open", "shutil.unpack_archive", "torch.hub.load",
    "requests.get", "requests.post", "socket.create_connection",
}  # fmt: skip
"""`np.load` reads no pickles unless it is told to."""
EXTRACTING = ("extractall", "extract")
NETWORK_ROOMS = {"releases.py", "hub.py", "bounded.py", "doctor.py", "publish.py"}
"""The only modules that may open a connection, for weights that were asked for; the diagnosis
asks where the Hub's cache lies."""


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def calls(path: Path) -> list[ast.Call]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]


def keyword(call: ast.Call, name: str) -> object:
    found = next((k.value for k in call.keywords if k.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else None


def faults_of(call: ast.Call) -> list[str]:
    name = name_of(call)
    found = []
    if name in FORBIDDEN_CALLS and not (
        name in ("np.load", "numpy.load") and all(k.arg != "allow_pickle" for k in call.keywords)
    ):
        found.append(name)
    if name == "torch.load" and keyword(call, "weights_only") is not True:
        found.append("torch.load without weights_only=True")
    if keyword(call, "shell") is True:
        found.append(f"{name} with shell=True")
    if (
        name.split(".")[-1] in EXTRACTING
        and "regex" not in name
        and isinstance(call.func, ast.Attribute)
        and name.split(".")[0] in ("archive", "tar", "zip", "zipfile", "tarfile")
    ):
        found.append(f"{name}: members by their own names")
    return found


def test_nothing_that_runs_what_it_reads() -> None:
    found = [f"{p}: {fault}" for p in SOURCES for call in calls(p) for fault in faults_of(call)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f)", "torch.load(f, weights_only=False)", "pickle.loads(b)", "eval(x)",
        "exec(x)", "yaml.load(f)", "subprocess.run(c, shell=True)",
        "np.load(f, allow_pickle=True)", "archive.extractall(d)",
    ],
)  # fmt: skip
def test_the_search_finds_them(line: str) -> None:
    call = next(n for n in ast.walk(ast.parse(line)) if isinstance(n, ast.Call))
    assert faults_of(call)


def test_pickle_is_imported_for_its_exception_only() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not names & {"pickle", "marshal", "shelve", "yaml", "joblib"}, path
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                assert [alias.name for alias in node.names] == ["UnpicklingError"]


def test_few_modules_know_the_network() -> None:
    """http, urllib.request and huggingface_hub; nothing sends figures anywhere."""
    libraries = ("urllib.request", "http.client", "requests", "httpx", "huggingface_hub")
    for path in SOURCES:
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
        used = {n for n in names if n.startswith(libraries)}
        allowed = path.name in NETWORK_ROOMS or path == PACKAGE / "cli" / "weights.py"
        assert not used or allowed, (path, used)


def called(prefix: list[str], *args: object) -> subprocess.CompletedProcess[str]:
    """`carl args` with weights that lie in the package, as a process of its own."""
    words = [*prefix, *installed(), *map(str, args)]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("options", [(), ("--io", "--io-steps", 2)])
def test_a_registration_opens_no_connection(
    tmp_path: Path, sound_pair: tuple[Path, Path], options: tuple[object, ...]
) -> None:
    """Every socket and connect of the process and its children, as the kernel saw them."""
    trace = tmp_path / "trace"
    traced = ["strace", "-f", "-e", "trace=%network", "-o", str(trace)]
    done = called(traced, "register", *sound_pair, "-o", tmp_path / "t.h5", "--report",
                  tmp_path / "p.html", "--threads", 1, *options)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    assert any("exited with 0" in line for line in lines)
    assert [line for line in lines if "AF_INET" in line] == []


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_download_is_seen_to_open_one(tmp_path: Path) -> None:
    """The other test can fail: weights of the Hub ask the network, and the trace shows it."""
    trace = tmp_path / "trace"
    traced = ["strace", "-f", "-e", "trace=%network", "-o", str(trace)]
    closed = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    ask = [*traced, *installed(), "weights", "download", "nobody/nothing"]
    done = subprocess.run(ask, env=environment(**closed), capture_output=True, check=False)
    assert done.returncode == 4
    assert any("AF_INET" in line for line in trace.read_text().splitlines())


def reached(prefix: list[str], port: int) -> bool:
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
    asked = [*prefix, sys.executable, "-c", code]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


@pytest.fixture
def offline() -> list[str]:
    """What runs a command in a network namespace of its own, with nothing in it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reached([], port)
        for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
            able = subprocess.run([*prefix, "true"], capture_output=True, check=False)
            if able.returncode == 0 and not reached(prefix, port):
                return prefix
    pytest.skip("network namespaces are refused here (unshare --net)")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed")
def test_a_machine_without_a_network(
    offline: list[str], sound_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """The same bytes as with one, and the same words."""
    outputs = {}
    for name, prefix in (("online", []), ("offline", offline)):
        path = tmp_path / f"{name}.h5"
        done = called(prefix, "register", *sound_pair, "-o", path, "--threads", 1,
                      "--report", tmp_path / f"{name}.html")  # fmt: skip
        assert done.returncode == 0, done.stderr
        outputs[name] = path.read_bytes(), done.stderr.replace(name, "")
    assert outputs["online"] == outputs["offline"]
    table = tmp_path / "pairs.csv"
    table.write_text("id,fixed,moving\na,{},{}\n".format(*sound_pair))
    done = called(offline, "batch", table, "--out-dir", tmp_path / "study", "--threads", 1)
    assert done.returncode == 0, done.stderr


def test_members_of_a_zip_stay_in_their_folder(tmp_path: Path) -> None:
    """Names that lead out, absolute ones and links: numbers stand in their place."""
    series = dicom_folder(tmp_path / "series")
    path = tmp_path / "deep" / "series.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for number, file in enumerate(sorted(series.iterdir())):
            names = ("../../escaped.dcm", "/tmp/escaped-carl.dcm", "..\\escaped.dcm")
            archive.write(file, names[number] if number < 3 else file.name)
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    read = read_any(path)
    np.testing.assert_array_equal(read.array, image().array)
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/escaped-carl.dcm").exists()


def test_a_zip_that_claims_to_hold_the_world(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(1000))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 2**31)
    path.write_bytes(content)
    with pytest.raises(InputError, match="more than a zip can hold"):
        read_any(path)


def huge_nifti(path: Path, packed: bool) -> None:
    """(30000, 30000, 30000) voxels of which there are a hundred bytes."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((10, 10, 1))
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["dim"][1:4] = 30000
    header["srow_x"][0] = header["srow_y"][1] = header["srow_z"][2] = 1
    header["sform_code"] = 1
    content = bytes(header.binaryblock) + bytes(4 + 100)
    path.write_bytes(gzip.compress(content) if packed else content)


def huge_header(path: Path) -> None:
    if ".nii" in path.name:
        huge_nifti(path, path.suffix == ".gz")
        return
    write_image(path, image(), compress=path.stem == "packed")
    before = {".nrrd": b"sizes: 12 10 6", ".mha": b"DimSize = 12 10 6"}[path.suffix]
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, before.replace(b"12 10 6", b"30000 30000 30000")))


@pytest.mark.parametrize(
    "name",
    ["plain.nii", "packed.nii.gz", "plain.nrrd", "packed.nrrd", "plain.mha", "packed.mha"],
)
def test_headers_can_not_claim_memory(heavy: Server, tmp_path: Path, name: str) -> None:
    """54 TB are refused by their size, before anything is allocated."""
    huge_header(tmp_path / name)
    ended = heavy.run(["info", tmp_path / name], tmp_path, more_bytes=2**28)
    assert ended.code == 3, ended.err
    assert "claims" in ended.err
    assert ended.grown_bytes < 2**27


def test_a_gzip_bomb_is_not_swallowed_whole(heavy: Server, tmp_path: Path) -> None:
    """A gibibyte of zeros behind a header for a hundred voxels: only those are unpacked."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((10, 10, 1))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"], header["sform_code"] = b"n+1", 352, 1
    header["srow_x"][0] = header["srow_y"][1] = header["srow_z"][2] = 1
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(bytes(header.binaryblock) + bytes(4))
        for _ in range(256):
            file.write(bytes(2**20))
    ended = heavy.run(["info", path], tmp_path, more_bytes=2**28)
    assert ended.grown_bytes < 2**27
    assert ended.code == 0, ended.err


def test_a_field_that_claims_memory(heavy: Server, tmp_path: Path) -> None:
    """HDF5: the size of a displacement field stands in its fixed parameters."""
    import h5py

    path = tmp_path / "field.h5"
    field = sitk.Image([4, 4, 4], sitk.sitkVectorFloat64, 3)
    sitk.WriteTransform(sitk.DisplacementFieldTransform(field), str(path))
    with h5py.File(path, "r+") as file:
        part = file["TransformGroup/0"]
        key = next(k for k in part if k.startswith("TransformF"))
        values = part[key][()]
        values[:3] = 30000
        part[key][...] = values
    ended = heavy.run(["info", path], tmp_path)
    assert ended.code == 3, ended
    assert "field.h5" in ended.err
    assert ended.grown_bytes < 2**30
    with pytest.raises(CarlError):
        read_transform(path)


@pytest.mark.parametrize("length", [2**62, 2**31, 200_000_000, 0])
def test_a_header_of_safetensors_that_claims_memory(tmp_path: Path, length: int) -> None:
    folder = untrained_weights(tmp_path / "weights")
    config = json.loads((folder / "config.json").read_text())
    config["files"] = {}
    (folder / "config.json").write_text(json.dumps(config))
    model = folder / "model.safetensors"
    model.write_bytes(struct.pack("<Q", length) + model.read_bytes()[8:])
    with pytest.raises(WeightsError):
        load_weights(folder)


EVIL = '=HYPERLINK("http://x","y")'


def test_a_summary_holds_no_formula(tmp_path: Path) -> None:
    path = tmp_path / "status.csv"
    starts = "=+-@\t\r"
    rows = [StatusRow(id="a", line=1, error=f"{start}cmd|' /C calc'!A0") for start in starts]
    write_rows(path, [row.model_dump() for row in rows])
    with path.open(newline="") as stream:
        found = [row["error"] for row in csv.DictReader(stream)]
    assert [cell[:2] for cell in found] == [f"'{start}" for start in starts]
    assert inert({"a": -1.5, "b": "plain", "c": EVIL}) == {"a": -1.5, "b": "plain", "c": f"'{EVIL}"}


def test_a_table_of_figures_holds_no_formula() -> None:
    from carl_cli.evaluation.tables import as_csv

    rows = list(csv.DictReader(io.StringIO(as_csv([{"id": EVIL, "dice": -0.5}]))))
    assert rows == [{"id": f"'{EVIL}", "dice": "-0.5"}]


def test_the_page_of_a_batch_holds_no_markup_from_outside(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    path = tmp_path / "index.html"
    write_index(path, [Case(evil, error=evil)], title=evil)
    page = path.read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page

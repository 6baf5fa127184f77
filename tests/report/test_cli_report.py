"""`carl report` and `carl view` on files, as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from carl_cli.cli.boundary import exit_code_of
from carl_cli.cli.report import report
from carl_cli.cli.view import view
from carl_cli.errors import InputError, UsageError
from carl_cli.io.images.files import read_image, write_image
from carl_cli.io.transforms.files import write_transform
from carl_cli.report.record import (
    RunRecord,
    StructureScore,
    input_file,
    output_files,
    read_record,
    write_record,
)
from carl_cli.report.saved import load_case, load_run
from carl_cli.report.serve import page_server
from tests.report.conftest import Pair


@pytest.fixture
def run_folder(
    pair: Pair, record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A finished run; the current folder is the one where it ran."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("fixed", "moving", "warped"):
        write_image(Path(f"{name}.nii.gz"), getattr(pair, name))
    write_transform(Path("t.h5"), pair.transform)
    inputs = {name: input_file(f"{name}.nii.gz") for name in ("fixed", "moving")}
    outputs = output_files({"forward": Path("t.h5"), "warped": Path("warped.nii.gz")})
    write_record(
        "run.json", record.model_copy(update={"inputs": inputs, "outputs": outputs, "warnings": []})
    )
    return folder


def test_record_to_page_and_figure(run_folder: Path) -> None:
    report([Path("run.json")], Path("r.html"), Path("f.svg"))
    assert "moving.nii.gz" in Path("r.html").read_text()
    assert Path("f.svg").stat().st_size > 10_000


def test_names_of_labels_reach_a_page_made_later(run_folder: Path, record: RunRecord) -> None:
    scores = [StructureScore(label="7", dice=0.5)]
    metrics = record.metrics.model_copy(update={"structures": scores})
    old = read_record("run.json").model_copy(update={"metrics": metrics})
    write_record("run.json", old)
    Path("names.tsv").write_text("index\tname\tcolor\n7\tmarker <b>\t#ff0000\n")
    report([Path("run.json")], Path("r.html"), label_names=Path("names.tsv"))
    text = Path("r.html").read_text()
    assert 'marker &lt;b&gt; <span class="quiet">7</span>' in text
    with pytest.raises(UsageError, match="several records"):
        report([Path("run.json")] * 2, Path("i.html"), label_names=Path("names.tsv"))


def test_warped_is_made_anew_when_it_is_gone(run_folder: Path) -> None:
    with_file = load_run(Path("run.json"), {})
    Path("warped.nii.gz").unlink()
    without = load_run(Path("run.json"), {})
    bright = with_file.warped.array > 50
    gap = np.abs(with_file.warped.array - without.warped.array)[bright]
    assert np.median(gap) < 2
    assert without.warped.grid.matches(with_file.fixed.grid)


def test_files_are_found_beside_the_record(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    run = load_run(run_folder / "run.json", {})
    assert run.fixed.source == str(run_folder / "fixed.nii.gz")
    assert run.record.warnings == []


def test_a_changed_file_is_said(run_folder: Path) -> None:
    image = read_image("moving.nii.gz")
    write_image(Path("moving.nii.gz"), replace(image, array=image.array + 1))
    assert load_run(Path("run.json"), {}).record.warnings == [
        "moving.nii.gz (moving) is not the file of this run: its hash differs."
    ]


def test_the_registered_time_point_is_shown(run_folder: Path) -> None:
    """The record says which volume of a series in time was registered."""
    image = read_image("moving.nii.gz")
    series = np.stack([np.zeros_like(image.array), image.array], axis=-1)
    write_image(
        Path("series.nii.gz"), replace(image, array=series, channels=2, channel_kind="time")
    )
    recorded = read_record("run.json")
    inputs = recorded.inputs | {"moving": input_file("series.nii.gz")}
    write_record(
        "series.json", recorded.model_copy(update={"inputs": inputs, "options": {"time_index": 1}})
    )
    shown = load_run(Path("series.json"), {}).moving
    np.testing.assert_array_equal(shown.array, image.array)


def test_of_vectors_the_first_component_is_shown(run_folder: Path) -> None:
    """As on the page of the run itself, warped anew or not; so are the cards of a batch."""
    expected = load_run(Path("run.json"), {})
    for name in ("fixed", "moving", "warped"):
        image = read_image(f"{name}.nii.gz")
        both = np.stack([image.array, 200 - image.array], axis=-1)
        parts = replace(image, array=both, channels=2, channel_kind="vector")
        write_image(Path(f"{name}.nii.gz"), parts)
    recorded = read_record("run.json")
    files = {name: input_file(f"{name}.nii.gz") for name in ("fixed", "moving")}
    write_record("run.json", recorded.model_copy(update={"inputs": files}))
    for warped_there in (True, False):
        run = load_run(Path("run.json"), {})
        for name in ("fixed", "moving", "warped")[: 2 + warped_there]:
            np.testing.assert_array_equal(getattr(run, name).array, getattr(expected, name).array)
        assert load_case(Path("run.json"), Path()).error == ""
        Path("warped.nii.gz").unlink(missing_ok=True)
    anew = load_run(Path("run.json"), {}).warped.array
    bright = expected.warped.array > 50
    assert np.median(np.abs(anew - expected.warped.array)[bright]) < 2


def test_files_alone_are_enough(run_folder: Path) -> None:
    report(
        output=Path("r.html"),
        fixed=Path("fixed.nii.gz"),
        moving=Path("moving.nii.gz"),
        transform=Path("t.h5"),
    )
    text = Path("r.html").read_text()
    assert "Provenance" not in text
    assert 'id="warped"' in text


def test_several_records_make_an_index_with_links(run_folder: Path) -> None:
    report([Path("run.json")], Path("r.html"))
    first = Path("run.json").read_text()
    linked = RunRecord.model_validate_json(first)
    linked.outputs.update(output_files({"report": Path("r.html")}))
    write_record("linked.json", linked)
    Path("broken.json").write_text("{}")
    report([Path("linked.json"), Path("run.json"), Path("broken.json")], Path("index.html"))
    text = Path("index.html").read_text()
    assert 'href="./r.html"' in text
    assert text.count("data:image/jpeg") == 2
    assert "broken.json is not a run record" in text


def test_pages_outside_the_index_folder_are_not_linked(run_folder: Path) -> None:
    linked = RunRecord.model_validate_json(Path("run.json").read_text())
    Path("r.html").write_text("x")
    linked.outputs.update(output_files({"report": Path("r.html")}))
    write_record("linked.json", linked)
    assert load_case(Path("linked.json"), run_folder).report == "r.html"
    assert load_case(Path("linked.json"), run_folder / "elsewhere").report == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, 2),
        ({"output": Path("r.html")}, 2),
        ({"records": [Path("run.json")], "figure": Path("f.bmp")}, 2),
        ({"records": [Path("run.json")] * 2, "figure": Path("f.png")}, 2),
        ({"records": [Path("absent.json")], "output": Path("r.html")}, 3),
        ({"records": [Path("run.json")], "output": Path("r.html"), "fixed": Path("no.nii")}, 3),
        ({"records": [Path("run.json")], "output": Path("run.json")}, 7),
        ({"records": [Path("run.json")], "output": Path("absent/r.html")}, 7),
    ],
)
def test_refusals_have_their_exit_codes(run_folder: Path, arguments: dict, code: int) -> None:
    before = sorted(run_folder.iterdir())
    assert exit_code_of(lambda: report(**arguments)) == code
    assert sorted(run_folder.iterdir()) == before


def test_a_lost_input_is_named(run_folder: Path) -> None:
    Path("t.h5").unlink()
    with pytest.raises(InputError, match=r"t\.h5, the transform of this run, is not there"):
        load_run(Path("run.json"), {})
    assert "t.h5" in load_case(Path("run.json"), run_folder).error


def test_report_never_loads_torch(run_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from carl_cli.cli.report import report;"
        "report([Path('run.json')], Path('r.html')); print('torch' in sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    output = subprocess.check_output(
        [sys.executable, "-c", code], text=True, env={"PYTHONPATH": root}
    )
    assert output.strip() == "False"


def fetch(url: str, host: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_server_hands_out_pages_of_its_folder_to_this_machine_only(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    (folder / "case").mkdir(parents=True)
    (folder / "in dex.html").write_text("index")
    (folder / "case" / "r.html").write_text("case")
    (folder / "image.nii.gz").write_text("secret")
    (tmp_path / "outside.html").write_text("secret")
    (folder / "link.html").symlink_to(tmp_path / "outside.html")
    with page_server(folder / "in dex.html") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        base = server.address_of_page.rpartition("/")[0]
        assert re.fullmatch(rf"{host}/[\w-]{{32}}", base)
        assert server.server_address[0] == "127.0.0.1"
        assert server.address_of_page == f"{base}/in%20dex.html"
        assert fetch(server.address_of_page) == (200, b"index")
        assert fetch(f"{base}/case/r.html") == (200, b"case")
        for path in (
            "/image.nii.gz",
            "/../outside.html",
            "/%2e%2e/outside.html",
            "/link.html",
            "/%00.html",
            f"/{'a' * 5000}.html",
            f"/{'a/' * 5000}.html",
        ):
            assert fetch(base + path)[0] == HTTPStatus.NOT_FOUND, path
        assert fetch(f"{base}/case/r.html", "evil.example")[0] == HTTPStatus.NOT_FOUND
        for path in ("/in%20dex.html", f"/{'x' * 32}/in%20dex.html", "//in%20dex.html", "/é"):
            assert fetch(host + quote(path, safe="/%"))[0] == HTTPStatus.NOT_FOUND, path
        token = base.rpartition("/")[2]
        for address in (base, f"{base}/", f"{host}/?token={token}"):
            assert fetch(address) == (200, b"index"), address
        for address in (f"{host}/?token=", f"{host}/?token={'x' * 32}", f"{host}/?{token}"):
            status, told = fetch(address)
            assert status == HTTPStatus.NOT_FOUND, address
            assert b"the whole address that carl view printed" in told
        status, told = fetch(f"{host}/")
        assert status == HTTPStatus.OK
        assert b'name="token"' in told
        assert token.encode() not in told  # not to whoever asks
        assert fetch(f"{host}/", "evil.example")[0] == HTTPStatus.NOT_FOUND
        with pytest.raises(UsageError, match=f"port {server.server_port}"):
            page_server(folder / "in dex.html", server.server_port)
        server.shutdown()


def test_view_opens_the_file_or_says_how_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "r 1.html"
    page.write_text("x")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    view(page)
    assert opened == [page.as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    with pytest.raises(UsageError) as caught:
        view(page)
    assert "--serve" in caught.value.hint
    with pytest.raises(InputError):
        view(tmp_path / "r.nii")

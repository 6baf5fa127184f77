"""The README, line by line, and the commands of all pages."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from carl_cli.cli.app import main
from carl_cli.workflows.demo import DemoFiles, write_phantom
from carl_cli.workflows.phantom import make_phantom
from tests.cli.weights_folder import untrained_weights
from tests.scripts import understood

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def lines(page: Path, language: str = "bash") -> list[str]:
    """The commands of a page's blocks, without their comments."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(rf"```{language}(?: walk)?\n(.*?)```", text, re.DOTALL)
    found = (line.split(" #")[0].strip() for line in "".join(blocks).splitlines())
    return [line for line in found if line]


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in lines(page):
            if line.startswith("carl "):
                yield str(page.relative_to(ROOT)), line


def test_the_readme_is_one_screen_and_a_half() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    linked = re.findall(r"\]\((?!http)([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(linked) > 20
    assert [path for path in linked if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_every_command_of_a_page_is_understood(page: str, line: str) -> None:
    """Its options exist and take such values; nothing is run."""
    words = shlex.split(line)[1:]
    if words[0].startswith("--"):
        return
    understood(words)


def test_a_command_with_a_wrong_option_would_be_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        test_every_command_of_a_page_is_understood("", "carl register a b --ouput t.h5")


@pytest.mark.slow
def test_the_three_commands_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a small phantom in the place of the demo's, with the weights of the package."""
    (tmp_path / "demo-output").mkdir()
    write_phantom(make_phantom(voxel_mm=8.0), DemoFiles.within(tmp_path / "demo-output"))
    monkeypatch.chdir(tmp_path / "demo-output")
    walked = lines(README)
    for line in walked[walked.index("cd demo-output") + 1 :]:
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(line)[1:])
        assert not stop.value.code, line
    names = ("T.h5", "back.h5", "moved.nii.gz", "page.html", "moved_labels.nii.gz")
    assert [name for name in names if not Path(name).is_file()] == []


@pytest.mark.slow
def test_python_as_it_stands(tmp_path: Path) -> None:
    write_phantom(make_phantom(voxel_mm=12.0), DemoFiles.within(tmp_path))
    code = "\n".join(lines(README, "python"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert all((tmp_path / n).is_file() for n in ("forward.h5", "warped.nii.gz", "report.html"))


@pytest.mark.slow
def test_from_a_clone_to_the_demo(tmp_path: Path) -> None:
    """All blocks of the README in one shell; pip needs its index, and gigabytes."""
    if os.environ.get("CARL_TEST_INSTALL") != "1":
        pytest.skip("CARL_TEST_INSTALL=1 installs carl from its index, for minutes")
    subprocess.run(["git", "clone", "-q", ROOT, tmp_path / "carl"], check=True)
    script = "set -e\n" + "\n".join(lines(README))
    script = script.replace("pip install", "python -m pip install -q")
    subprocess.run(["bash", "-c", script], cwd=tmp_path / "carl", check=True)
    assert (tmp_path / "carl" / "demo-output" / "page.html").is_file()


def test_the_three_commands_with_a_small_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_phantom(make_phantom(voxel_mm=12.0), DemoFiles.within(tmp_path))
    weights = untrained_weights(tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    walked = lines(README)
    for line in walked[walked.index("cd demo-output") + 1 :]:
        words = shlex.split(line)[1:]
        more = ["--weights", str(weights)] if words[0] == "register" else []
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert not stop.value.code, line

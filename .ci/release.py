"""The steps of a release, up to the upload; docs/project/releasing.md tells when to take them.

python .ci/release.py bump 0.3.0     version, CITATION.cff, changelog; read them, commit them
python .ci/release.py check          do the files that name the version agree, is all committed?
python .ci/release.py publish        check, tag, build, twine check, self-test of the wheel
python .ci/release.py rehearse 0.3.0 all of that in a copy that is thrown away
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION_FILE = "carl_cli/__init__.py"
RECIPE = "containers/conda/recipe.yaml"
VERSION = r"\d+\.\d+\.\d+"


def run(root: Path, *command: str | Path) -> str:
    print("$", *command, flush=True)
    done = subprocess.run(command, cwd=root, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed with exit code {done.returncode}: {command[0]}")
    return done.stdout


def tool(name: str) -> Path:
    """A program of the environment that runs this."""
    return Path(sys.executable).with_name(name)


def replace_once(path: Path, pattern: str, text: str) -> None:
    found, count = re.subn(pattern, text, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if count != 1:
        sys.exit(f"{path.name}: {count} lines match {pattern}, one was expected")
    path.write_text(found, encoding="utf-8")


def bump(root: Path, version: str) -> None:
    if not re.fullmatch(VERSION, version) or numbers(version) <= numbers(versions(root)[0]):
        sys.exit(f"{version} is not a version after {versions(root)[0]}")
    date = datetime.date.today().isoformat()
    replace_once(root / VERSION_FILE, r'^__version__ = ".*"$', f'__version__ = "{version}"')
    replace_once(root / RECIPE, r'^  version: ".*"$', f'  version: "{version}"')
    citation = root / "CITATION.cff"
    replace_once(citation, r"^version: .*\n(date-released: .*\n)?",
                 f"version: {version}\ndate-released: {date}\n")  # fmt: skip
    run(root, tool("towncrier"), "build", "--yes", "--version", version, "--date", date)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def versions(root: Path) -> Sequence[str]:
    """Of the package, the citation, the conda recipe, and the newest release in the changelog."""
    places = (
        (VERSION_FILE, rf'^__version__ = "({VERSION})"$'),
        ("CITATION.cff", rf"^version: ({VERSION})$"),
        (RECIPE, rf'^  version: "({VERSION})"$'),
        ("CHANGELOG.md", rf"^## \[({VERSION})\] - \d{{4}}-\d\d-\d\d$"),
    )
    texts = ((root / name).read_text(encoding="utf-8") for name, _ in places)
    matches = (re.search(p, t, re.MULTILINE) for t, (_, p) in zip(texts, places, strict=True))
    return [match[1] if match else "none" for match in matches]


def check(root: Path) -> str:
    """The version, when everything agrees on it."""
    found = versions(root)
    if len(set(found)) != 1:
        sys.exit(
            f"package, CITATION.cff, {RECIPE} and CHANGELOG.md name versions " + ", ".join(found)
        )
    fragments = [p.name for p in (root / "changelog.d").iterdir() if p.name != "README.md"]
    if fragments:
        sys.exit(f"changelog.d holds news that is not in CHANGELOG.md: {', '.join(fragments)}")
    if run(root, "git", "status", "--porcelain"):
        sys.exit("there are uncommitted changes")
    if run(root, "git", "tag", "--list", f"v{found[0]}"):
        sys.exit(f"v{found[0]} is tagged already")
    return found[0]


def publish(root: Path) -> None:
    version = check(root)
    run(root, "git", "tag", "--annotate", f"v{version}", "--message", f"carl {version}")
    environment = Path(sys.executable).parents[1]
    as_it_is = f"{environment}/.dev"  # -o: this environment is not installed anew
    told = run(root, "make", "dist", f"VENV={environment}", "-o", as_it_is)
    print(told)
    if f"carl {version}" not in told.splitlines():
        sys.exit(f"the wheel that was installed does not call itself {version}")
    print(f"{version} is tagged, built and tested. What is left:\n"
          f"  git push origin main v{version}\n  twine upload dist/*")  # fmt: skip


def rehearse(root: Path, version: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "carl"
        run(root, "git", "clone", "--quiet", root, copy)
        os.environ["CARL_WHEEL_VENV"] = f"{folder}/wheel"
        bump(copy, version)
        identity = ("-c", "user.name=carl", "-c", "user.email=carl@localhost")
        run(copy, "git", "add", "--all")
        run(copy, "git", *identity, "commit", "--quiet", "--message", f"Release {version}")
        publish(copy)
    print("All of this happened in a copy, which is gone.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("bump", "check", "publish", "rehearse"))
    parser.add_argument("version", nargs="?")
    wanted = parser.parse_args()
    takes_version = wanted.step in ("bump", "rehearse")
    if takes_version != bool(wanted.version):
        parser.error(f"{wanted.step} takes {'a' if takes_version else 'no'} version")
    step = globals()[wanted.step]
    step(ROOT, wanted.version) if takes_version else step(ROOT)


if __name__ == "__main__":
    main()

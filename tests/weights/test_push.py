"""`carl weights push` against the hub on loopback, and what it can be refused for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from carl_cli.training.config import TrainConfig
from carl_cli.training.loop import train
from carl_cli.weights.files import stored_config
from tests.cli.weights_folder import untrained_weights
from tests.training.conftest import make_config  # noqa: F401 (a fixture)
from tests.weights.conftest import Carl
from tests.weights.hub import Hub

TOKEN = {"HF_TOKEN": "hf_good"}


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_weights(tmp_path_factory.mktemp("push") / "own")


@pytest.fixture
def own(sound_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound_folder, tmp_path / "own"))


def test_what_was_pushed_comes_back_by_the_name_that_was_printed(
    carl: Carl, hub: Hub, own: Path
) -> None:
    done = carl("weights", "push", own, "org/new", **TOKEN)
    assert (done.returncode, done.stderr) == (0, "")
    repository = hub.repositories["org/new"]
    assert done.stdout.strip() == f"org/new@{repository.revisions['main']}"
    assert not repository.private
    assert repository.messages == [f"Weights of carl from {own}"]
    here = carl("weights", "download", done.stdout.strip())
    assert here.returncode == 0, here.stderr
    back = Path(here.stdout.strip())
    for name in ("config.json", "model.safetensors"):
        assert (back / name).read_bytes() == (own / name).read_bytes()
    card = (back / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: carl\n")
    assert card.endswith("---\nAn untrained network.")
    assert carl("weights", "verify", done.stdout.strip()).returncode == 0


def test_a_training_is_exported_under_the_name_of_the_repository(
    carl: Carl,
    hub: Hub,
    make_config: Callable[..., TrainConfig],  # noqa: F811
    tmp_path: Path,
) -> None:
    stage = {"kind": "correspondence", "loss": {"attention": 1.0, "queries": 50}, "steps": 1}
    train(make_config([stage]), tmp_path / "run")
    done = carl("weights", "push", tmp_path / "run", "org/mine", **TOKEN)
    assert done.returncode == 0, done.stderr
    files = hub.repositories["org/mine"].tree(done.stdout.strip().split("@")[1])
    config = json.loads(files["config.json"])
    assert (config["name"], config["provenance"]["steps"]) == ("mine", 1)
    assert config["files"]["model.safetensors"] == sha256(files["model.safetensors"]).hexdigest()
    assert "# mine\n" in files["README.md"].decode()
    assert not (tmp_path / "run" / "model.safetensors").exists(), "the run stays as it is"


def test_a_card_is_written_where_there_is_none(carl: Carl, hub: Hub, own: Path) -> None:
    (own / "README.md").unlink()
    config = stored_config(own)
    config |= {"licence": "what the authors say", "citation": "a paper"}
    (own / "config.json").write_text(json.dumps(config))
    assert carl("weights", "push", own, "org/net@v2", **TOKEN).returncode == 0
    repository = hub.repositories["org/net"]
    card = repository.tree(repository.revisions["v2"])["README.md"].decode()
    assert card.startswith("---\nlicense: other\n")
    assert "Licence: what the authors say." in card
    assert "--weights org/net@v2" in card
    assert "Cite: a paper" in card


def test_a_branch_a_private_repository_and_a_message(carl: Carl, hub: Hub, own: Path) -> None:
    order = ("weights", "push", own, "org/hidden@next", "--private", "-m", "Longer training")
    done = carl(*order, **TOKEN)
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["org/hidden"]
    assert repository.private
    assert repository.messages == ["Longer training"]
    assert set(repository.revisions) == {"main", "next"}
    assert repository.tree(repository.revisions["main"]) == {}
    assert set(repository.tree(repository.revisions["next"])) == {
        *("config.json", "model.safetensors", "README.md")
    }


def test_a_second_push_replaces_and_keeps_what_else_there_is(
    carl: Carl, hub: Hub, own: Path
) -> None:
    for _ in range(2):
        assert carl("weights", "push", own, "org/net", **TOKEN).returncode == 0
    repository = hub.repositories["org/net"]
    files = repository.tree(repository.revisions["main"])
    assert files["config.json"] == (own / "config.json").read_bytes()
    assert files["pytorch_model.bin"] == b"not wanted"


def test_weights_that_are_not_sound_stay_here(carl: Carl, hub: Hub, own: Path) -> None:
    model = own / "model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + b"\1")
    done = carl("weights", "push", own, "org/net", **TOKEN)
    assert done.returncode == 4
    assert "model.safetensors is damaged" in done.stderr
    model.write_bytes(whole)
    config = stored_config(own)
    for changed, said in (
        ({"self_test": [0.5] * 12}, "of the image away from the figures"),
        ({"self_test": []}, "has no SHA-256 or no figures"),
        ({"files": {}}, "has no SHA-256 or no figures"),
    ):
        (own / "config.json").write_text(json.dumps(config | changed))
        done = carl("weights", "push", own, "org/net", **TOKEN)
        assert done.returncode == 4
        assert said in done.stderr
    assert hub.asked == []


@pytest.mark.parametrize(
    ("repository", "variables", "code", "said"),
    [
        ("org/net", {}, 4, "error: no token for http://127.0.0.1"),
        ("org/net", {"HF_TOKEN": "hf_bad"}, 4, "doesn't accept your token"),
        ("others/net", TOKEN, 4, "error: your token may not write to others/net"),
        ("org/net", {**TOKEN, "HF_HUB_OFFLINE": "1"}, 4, "the network is not to be used"),
        ("org/net", {**TOKEN, "HF_ENDPOINT": "http://127.0.0.1:9"}, 4, "error: no connection"),
        ("net", TOKEN, 2, "give org/repo[@branch]"),
    ],
)
def test_who_may_not_push_and_where(
    carl: Carl, own: Path, repository: str, variables: dict[str, str], code: int, said: str
) -> None:
    done = carl("weights", "push", own, repository, **variables)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "hint: " in done.stderr


@pytest.mark.parametrize(
    ("step", "status", "said"),
    [
        ("create", 401, "doesn't accept your token"),
        ("branch", 403, "your token may not write to org/net"),
        ("preupload", 404, "has no org/net that you may write to"),
        ("batch", 403, "your token may not write to org/net"),
        ("put", 403, "your token may not write to org/net"),
        ("verify", 422, "does not work at the moment: it answered 422"),
        ("commit", 409, "org/net@v2 was changed by somebody else meanwhile"),
        ("commit", 412, "org/net@v2 was changed by somebody else meanwhile"),
        ("commit", 500, "does not work at the moment: it answered 500"),
    ],
)
def test_each_call_can_be_refused(
    carl: Carl, hub: Hub, own: Path, step: str, status: int, said: str
) -> None:
    hub.refused = {step: status}
    before = dict(hub.repositories["org/net"].revisions)
    done = carl("weights", "push", own, "org/net@v2", **TOKEN)
    assert done.returncode == 4
    assert said in done.stderr
    assert "hint: " in done.stderr
    assert hub.repositories["org/net"].tree(before["main"]) == hub.repositories["org/net"].files
    assert hub.repositories["org/net"].messages == []


def test_front_matter_that_the_hub_refuses(carl: Carl, hub: Hub, own: Path) -> None:
    (own / "README.md").write_text("---\nlicence: mine\n---\n# own")
    done = carl("weights", "push", own, "org/net", **TOKEN)
    assert done.returncode == 4
    assert "license: expected" in done.stderr
    assert "correct the front matter of README.md" in done.stderr


def test_nothing_there_to_push(carl: Carl, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, said in ((tmp_path / "empty", "config.json"), ("none", "no weights 'none' here")):
        done = carl("weights", "push", source, "org/net", **TOKEN)
        assert done.returncode == 4
        assert said in done.stderr
    assert hub.asked == []

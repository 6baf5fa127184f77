"""A weights folder as a repository on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from carl_cli.errors import WeightsError
from carl_cli.weights import hub
from carl_cli.weights.files import CARD, CONFIG, MODEL
from carl_cli.weights.registry import HubName

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from carl_cli.weights.folder import WeightsConfig

# Licences as the Hub spells them in a card's front matter; any other one is "other" there.
_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0")


def publish(
    folder: Path, wanted: HubName, private: bool = False, message: str = "Weights of carl"
) -> HubName:
    """Write a weights folder to a branch of a repository, and name the commit.

    private: of a repository that is made for it. Raises WeightsError, for weights that aren't
    sound before anything is sent.
    """
    _check(folder)
    return _push(folder, wanted, private, message)


def require_login() -> None:
    """Raise WeightsError where nothing could be pushed: offline, or without a token."""
    from huggingface_hub import get_token

    if hub.is_offline():
        raise WeightsError("the network is not to be used", "unset HF_HUB_OFFLINE, then push")
    if not get_token():
        raise WeightsError(f"no token for {hub.endpoint()}", _TOKEN_HINT.format(hub.endpoint()))


def _check(folder: Path) -> None:
    from carl_cli.weights.folder import load_weights
    from carl_cli.weights.selftest import check_figures, figures

    weights = load_weights(folder)
    if MODEL not in weights.config.files or not weights.config.self_test:
        raise WeightsError(
            f"{folder / CONFIG} has no SHA-256 or no figures to check {MODEL} with",
            "carl train export and carl weights import write both",
        )
    found = figures(weights.network, weights.config.model)
    check_figures(found, weights.config.self_test, weights.source)


def _push(folder: Path, wanted: HubName, private: bool, message: str) -> HubName:
    """All files in one commit: no reader ever sees a new config.json with old weights."""
    from huggingface_hub import CommitOperationAdd, HfApi

    contents: dict[str, bytes | Path] = {
        CONFIG: (folder / CONFIG).read_bytes(),
        MODEL: folder / MODEL,
        CARD: model_card(folder, wanted).encode(),
    }
    api = HfApi()
    with hub.own_words(wanted, _refusal):
        _make(api, wanted, private)
        done = api.create_commit(
            wanted.repository,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            commit_message=message,
            revision=wanted.revision,
        )
    return HubName(wanted.repository, done.oid)


def _make(api: HfApi, wanted: HubName, private: bool) -> None:
    api.create_repo(wanted.repository, private=private or None, exist_ok=True)
    if wanted.revision != "main":
        api.create_branch(wanted.repository, branch=wanted.revision, exist_ok=True)


_TOKEN_HINT = (
    "make one that may write at {}/settings/tokens, then set HF_TOKEN or run: hf auth login"
)


def _refusal(error: BaseException, wanted: HubName) -> WeightsError | None:
    """What only a push can be refused for."""
    owner = wanted.repository.split("/")[0]
    words = {
        400: ("{0} refuses the files: {3}", "correct the front matter of README.md"),
        401: ("{0} doesn't accept your token", _TOKEN_HINT.format(hub.endpoint())),
        403: ("your token may not write to {1}", f"it must be of {owner}, and may write"),
        404: ("{0} has no {1} that you may write to", f"check that you belong to {owner}"),
        409: ("{2} was changed by somebody else meanwhile", "look at it, then push again"),
        412: ("{2} was changed by somebody else meanwhile", "look at it, then push again"),
    }
    status = hub.status_of(error)
    if status not in words:
        return None
    message, hint = words[status]
    said = str(error).strip().splitlines()[-1:] or [""]
    return WeightsError(message.format(hub.endpoint(), wanted.repository, wanted, *said), hint)


def model_card(folder: Path, wanted: HubName) -> str:
    """README.md as it is pushed: with the front matter that the Hub reads; written if absent."""
    from carl_cli.weights.folder import read_config

    config = read_config(folder)
    path = folder / CARD
    text = path.read_text(encoding="utf-8") if path.exists() else _plain_card(config, wanted)
    return text if text.startswith("---\n") else _front_matter(config) + text


def _front_matter(config: WeightsConfig) -> str:
    licence = config.licence.lower()
    licence = licence if licence in _LICENCES else "other"
    return (
        f"---\nlicense: {licence}\nlibrary_name: carl\npipeline_tag: image-to-image\n"
        "tags: [medical-imaging, image-registration]\n---\n"
    )


def _plain_card(config: WeightsConfig, wanted: HubName) -> str:
    cite = f"\nCite: {config.citation}\n" if config.citation else ""
    return (
        f"# {config.name}\n\nRegisters {config.model.dimension}D medical images, "
        f"{config.family} family. Licence: {config.licence}. Use:\n\n"
        f"    carl register FIXED MOVING -o T.h5 --weights {wanted}\n{cite}"
    )

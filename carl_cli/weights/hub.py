"""Weights folders on the Hugging Face Hub; every failure in words of its own.

huggingface_hub keeps the cache and honours HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from carl_cli.errors import WeightsError
from carl_cli.weights.bounded import bound_client
from carl_cli.weights.files import CARD, CONFIG, MODEL, check_files, stored_config, stored_hashes
from carl_cli.weights.registry import HubName

Explain = Callable[[BaseException, HubName], "WeightsError | None"]
FILES = (CONFIG, MODEL, CARD)
NEEDED = (CONFIG, MODEL)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached(wanted: HubName) -> Path | None:
    """The snapshot in the cache if it is whole. Writes nothing and takes no lock."""
    from huggingface_hub import try_to_load_from_cache

    found = [
        Path(path)
        for name in NEEDED
        if isinstance(
            path := try_to_load_from_cache(wanted.repository, name, revision=wanted.revision), str
        )
    ]
    return found[0].parent if len(found) == len(NEEDED) else None


def cached_snapshots() -> Iterator[tuple[HubName, Path]]:
    """Every weights folder in the cache; other programs' repositories are passed over."""
    for config in sorted(cache_folder().glob(f"models--*--*/snapshots/*/{CONFIG}")):
        folder = config.parent
        if (folder / MODEL).exists() and _is_ours(folder):
            repository = folder.parents[1].name.removeprefix("models--").replace("--", "/", 1)
            yield HubName(repository, folder.name), folder


def _is_ours(folder: Path) -> bool:
    try:
        return {"format_version", "preprocess"} <= stored_config(folder).keys()
    except WeightsError:
        return False


def absent(wanted: HubName) -> WeightsError:
    """What to say when the cache lacks weights and the network is not to be used."""
    return WeightsError(
        f"{wanted} is not in the cache {cache_folder()}, and the network is not to be used",
        f"where there is one (a login node), with the same HF_HOME: carl weights download {wanted}",
    )


def download(wanted: HubName, force: bool = False) -> Path:
    """Bring a repository's weights into the cache, hashes checked.

    A transfer that is cut is taken up where it broke off.

    force: download again what is there already. Raises WeightsError.
    """
    from huggingface_hub import snapshot_download

    if is_offline():
        raise absent(wanted)
    with own_words(wanted):
        folder = Path(
            snapshot_download(
                wanted.repository,
                revision=wanted.revision,
                allow_patterns=list(FILES),
                force_download=force,
            )
        )
    if missing := [name for name in NEEDED if not (folder / name).exists()]:
        raise WeightsError(
            f"{wanted} holds no weights of carl: it lacks {' and '.join(missing)}",
            "an authors' checkpoint is read by: carl weights import FILE --family NAME",
        )
    check_files(folder, stored_hashes(folder))
    return folder


@contextmanager
def own_words(wanted: HubName, special: Explain | None = None) -> Iterator[None]:
    """WeightsError for whatever goes wrong between here and the Hub; nothing else runs inside.

    special: asked first; by default what can go wrong with a download.
    """
    bound_client()
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        known = next((e for e in _chain(error) if isinstance(e, WeightsError)), None)
        known = known or (special or _named)(error, wanted) or _by_status(error, wanted)
        known = known or _by_disk(error) or _no_connection(error) or _no_hub(error)
        if known is None:
            raise
        raise known from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from: huggingface_hub wraps causes in general ones."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _named(error: BaseException, wanted: HubName) -> WeightsError | None:
    from huggingface_hub import errors

    kinds = list(_chain(error))
    page = f"{endpoint()}/{wanted.repository}"
    if any(isinstance(e, errors.GatedRepoError) for e in kinds):
        return WeightsError(
            f"{wanted} is gated: its owners grant access",
            f"ask for access at {page}, then set HF_TOKEN or run: hf auth login",
        )
    if any(isinstance(e, errors.RepositoryNotFoundError) for e in kinds):
        return WeightsError(
            f"no repository {wanted.repository} on {endpoint()} that you may see "
            "(and no folder of that name here)",
            _token_hint(),
        )
    if any(isinstance(e, errors.RevisionNotFoundError) for e in kinds):
        return WeightsError(
            f"{wanted.repository} has no revision {wanted.revision!r}",
            f"branches, tags and commits are listed at {page}/commits/main",
        )
    if any(isinstance(e, errors.FileMetadataError) for e in kinds):
        return _not_as_a_hub()
    if any(isinstance(e, errors.HFValidationError) for e in kinds):
        return WeightsError(f"{wanted} is not the name of a repository", "give org/repo[@revision]")
    return None


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the Hub answered with, if that is what the error comes from."""
    responses = [getattr(e, "response", None) for e in _chain(error)]
    return next((int(r.status_code) for r in responses if r is not None), None)


def _by_status(error: BaseException, wanted: HubName) -> WeightsError | None:
    status = status_of(error)
    if status is None:
        return None
    if status in (401, 403):
        return WeightsError(f"{endpoint()} refuses access to {wanted} ({status})", _token_hint())
    if status == 404:
        return WeightsError(f"a file of {wanted} is missing on {endpoint()} (404)")
    return WeightsError(
        f"{endpoint()} does not work at the moment: it answered {status} for {wanted}",
        "try again later",
    )


def _by_disk(error: BaseException) -> WeightsError | None:
    found = next((e for e in _chain(error) if isinstance(e, OSError) and e.errno), None)
    if found is None:
        return None
    if found.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return WeightsError(
            f"no space left for the weights in {cache_folder()}",
            "free some, or set HF_HOME to a folder with space",
        )
    if found.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return WeightsError(
            f"weights can't be written to {cache_folder()}: {found.strerror}",
            "set HF_HOME to a folder of yours",
        )
    return None


def _no_connection(error: BaseException) -> WeightsError | None:
    from huggingface_hub import errors

    def is_called(*words: str) -> bool:
        return any(word in type(e).__name__ for e in _chain(error) for word in words)

    lost = is_called("Connect", "Timeout", "Network", "Proxy")
    cut = is_called("Protocol", "ReadError") or "Consistency check failed" in str(error)
    if cut or lost or isinstance(error, errors.LocalEntryNotFoundError):
        what = "the connection broke off" if cut else "no connection"
        return WeightsError(
            f"{what}: {endpoint()}",
            "check the network, or HF_ENDPOINT; on a compute node without one, run "
            "carl weights download on the login node first",
        )
    return None


def _no_hub(error: BaseException) -> WeightsError | None:
    """A portal's page in place of JSON, redirects in a circle, JSON without what belongs there."""
    astray = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
    circle = any(type(e).__name__ == "TooManyRedirects" for e in _chain(error))
    return _not_as_a_hub() if circle or isinstance(error, astray) else None


def _not_as_a_hub() -> WeightsError:
    return WeightsError(
        f"{endpoint()} does not answer as a Hub does",
        "check HF_ENDPOINT and the proxy, and whether the network wants a log-in first",
    )


def endpoint() -> str:
    """HF_ENDPOINT, or the Hub itself."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _token_hint() -> str:
    from huggingface_hub import get_token

    if get_token():
        return "check the spelling, and that your token (HF_TOKEN) may read it"
    return "check the spelling; for a private one set HF_TOKEN or run: hf auth login"

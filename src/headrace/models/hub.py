"""Models from the Hugging Face hub, through huggingface_hub: its cache, its offline mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.nouns.errors import ModelError

# What a text model needs; never .bin or .pth, which can run code when they are read.
_WANTED = ["*.json", "*.safetensors", "*.jinja"]
_UNWANTED = ["*/*"]  # copies in other formats


def fetch_snapshot(repo: str, revision: str | None = None, progress: bool = True) -> Path:
    """The directory of ``repo`` in the local cache, completed from the hub where it may be asked.

    Raises ModelError when there is no such model, no right to it, or no way to the hub and no
    copy in the cache.
    """
    from huggingface_hub import snapshot_download

    with _named_errors(repo), _bars(progress):
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
            )
        )


def fetch_file(repo: str, name: str, revision: str | None = None, progress: bool = True) -> Path:
    """One file of ``repo`` in the local cache. Raises ModelError as fetch_snapshot does."""
    from huggingface_hub import hf_hub_download

    with _named_errors(repo), _bars(progress):
        return Path(hf_hub_download(repo, name, revision=revision))


@contextmanager
def _bars(progress: bool) -> Iterator[None]:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if progress or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _named_errors(repo: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"the hub lets only people who accepted its terms read {repo!r}: accept them on its"
            " page and log in with 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {repo!r}, or you may not read it: check the name, or log in"
            " with 'hf auth login'"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{repo!r} on the hub has no such revision: {_line(error)}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{repo!r} is not in the local cache and the hub cannot be asked (no network, or"
            " HF_HUB_OFFLINE is set): connect and try again, or give the path of the model's files"
        ) from error
    except EntryNotFoundError as error:
        raise ModelError(f"{repo!r} on the hub has no such file: {_line(error)}") from error
    # The library's HTTP client, and with it what it raises, differs between versions.
    except Exception as error:
        raise ModelError(f"cannot fetch {repo!r} from the hub: {_line(error)}") from error


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

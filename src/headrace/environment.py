"""The only module that reads environment variables."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where fetched models and measurements are kept: HEADRACE_CACHE or the user's cache."""
    override = os.environ.get("HEADRACE_CACHE")
    if override:
        return Path(override).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "headrace"


def api_keys() -> tuple[str, ...]:
    """API keys of HEADRACE_API_KEYS, separated by commas or white space."""
    return tuple(os.environ.get("HEADRACE_API_KEYS", "").replace(",", " ").split())


def version() -> str:
    """The installed version of headrace."""
    from importlib import metadata

    try:
        return metadata.version("headrace")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a program we start: ours with ``changes``."""
    return {**os.environ, **changes}


SPIN_COUNT = "3000"


def limit_spinning() -> None:
    """Lets OpenMP's threads sleep after a short wait. Has an effect before torch is loaded only.

    By default they spin for milliseconds at every barrier, which costs a lone program nothing and
    slows programs that share cores by an order of magnitude (docs/log.md has figures). What the
    user has set stands.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT

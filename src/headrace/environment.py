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


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a program we start: ours with ``changes``."""
    return {**os.environ, **changes}

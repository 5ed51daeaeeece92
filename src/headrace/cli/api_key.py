"""The API key that a client shows."""

from __future__ import annotations

from pathlib import Path

from headrace.environment import api_keys


def first_key(path: Path | None) -> str | None:
    """The first key of a server's key file, else of HEADRACE_API_KEYS. Raises ConfigError."""
    if path is None:
        return next(iter(api_keys()), None)
    from headrace.api.keys import read

    return next(iter(read(path).keys))

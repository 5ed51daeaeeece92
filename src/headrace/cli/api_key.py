"""The API key that a client shows."""

from __future__ import annotations

from pathlib import Path

from headrace.environment import api_keys
from headrace.nouns.errors import ConfigError


def first_key(path: Path | None) -> str | None:
    """The first key of a server's key file, else of HEADRACE_API_KEYS. Raises ConfigError."""
    if path is None:
        return next(iter(api_keys()), None)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the API key file {path} cannot be read: {error}") from error
    for line in lines:
        words = line.split()
        if words and not words[0].startswith("#"):
            return words[0]
    raise ConfigError(f"the API key file {path} holds no key; write one a line")

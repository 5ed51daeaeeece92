"""Reading TOML strictly: every key known, every value of its type, every error with its place."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from headrace.nouns.errors import ConfigError

MAX_BYTES = 1 << 20


class Table:
    """A table of a TOML file; ``where`` names it in errors."""

    def __init__(self, where: str, values: Mapping[str, Any], known: Set[str]) -> None:
        """Raises ConfigError for keys that are not ``known``."""
        self.where = where
        self._values = values
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ConfigError(
                f"{where}: {unknown[0]!r} is not known here; write {', '.join(sorted(known))}"
            )

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number in [low, high]."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.where}: {key} is {value!r}; it has to be a number")
        if not low <= value <= high:
            shown = value if isinstance(value, float) or abs(value) < 1e18 else "too large"
            raise ConfigError(
                f"{self.where}: {key} is {shown}; it has to be from {low:g} to {high:g}"
            )
        return float(value)

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number in [low, high]."""
        value = self.number(key, low, high, default)
        if value != int(value):
            raise ConfigError(f"{self.where}: {key} is {value}; it has to be a whole number")
        return int(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty, unless that is the default."""
        value = self._values.get(key, default)
        if not isinstance(value, str) or (not value and value != default):
            raise ConfigError(f"{self.where}: {key} is {value!r}; it has to be a text")
        return value

    def truth(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {key} is {value!r}; it has to be true or false")
        return value

    def table(self, key: str, known: Set[str]) -> Table:
        """The table under ``key``; empty where there is none."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise ConfigError(f"{self.where}: {key} is {value!r}; it has to be a table")
        return Table(f"{self.where}, [{key}]", value, known)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ConfigError where it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES} bytes; it is no description")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # endless numbers and lists are no TOML, too
        raise ConfigError(f"{path} is no TOML: {error}") from error

"""Fields: typed look-ups in the metadata of a model file, with errors that name file and key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from headrace.nouns.errors import ModelError

_MISSING: Any = object()


class Fields:
    """A mapping of unknown content, read with types.

    Every method takes a default for a key that is absent or null; without one the key is needed.
    Raises ModelError naming ``where`` (the file), the key, and what was found instead.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = _MISSING) -> int:
        value = self._get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "a whole number", value)
        return value

    def number(self, key: str, default: float | None = _MISSING) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number", value)
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if not math.isfinite(result):
            raise self._wrong(key, "a finite number", value)
        return result

    def flag(self, key: str, default: bool | None = _MISSING) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def text(self, key: str, default: str | None = _MISSING) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def texts(self, key: str) -> list[str]:
        return self._list(key, str, "a list of strings")

    def integers(self, key: str) -> list[int]:
        return self._list(key, int, "a list of whole numbers")

    def numbers(self, key: str) -> list[float]:
        return self._list(key, float, "a list of numbers")

    def section(self, key: str) -> Fields | None:
        """The mapping under ``key``; None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(key, "a mapping", value)
        return Fields(value, f"{self.where}, {key}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise ModelError(f"{self.where} has no {key!r}, which the model needs")
        return default

    def _list(self, key: str, kind: type, what: str) -> list[Any]:
        value = self._get(key, _MISSING)
        if not isinstance(value, list) or not all(isinstance(v, kind) for v in value):
            raise self._wrong(key, what, value)
        return value

    def _wrong(self, key: str, what: str, value: Any) -> ModelError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ModelError(f"{self.where}: {key!r} must be {what}, not {shown}")

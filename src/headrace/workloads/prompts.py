"""Prompts: tokens to fill asked-for lengths, from a text or at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from headrace.nouns.errors import ConfigError

MAX_TEXT_BYTES = 64 * 2**20


class Prompts(Protocol):
    """``prompt`` makes a prompt of exactly ``tokens`` token ids, another one at each call."""

    def prompt(self, tokens: int) -> tuple[int, ...]: ...


class TextPrompts:
    """Stretches of a tokenized text, begun at random places and going on at its start."""

    def __init__(self, ids: Sequence[int], seed: Sequence[int] = (0,)) -> None:
        if not ids:
            raise ConfigError("the text for the prompts has no tokens; give a longer one")
        self._ids = tuple(ids)
        self._rng = np.random.default_rng([*seed, 0xC])

    def prompt(self, tokens: int) -> tuple[int, ...]:
        start = int(self._rng.integers(len(self._ids)))
        prompt = self._ids[start : start + tokens]
        while len(prompt) < tokens:
            prompt += self._ids[: tokens - len(prompt)]
        return prompt


class RandomPrompts:
    """Independent, uniformly drawn token ids; ``allowed`` are the ids to draw from."""

    def __init__(self, allowed: Sequence[int], seed: Sequence[int] = (0,)) -> None:
        if not allowed:
            raise ConfigError("there are no token ids to draw prompts from")
        self._allowed = np.asarray(allowed)
        self._rng = np.random.default_rng([*seed, 0xD])

    def prompt(self, tokens: int) -> tuple[int, ...]:
        drawn = self._allowed[self._rng.integers(len(self._allowed), size=tokens)]
        return tuple(drawn.tolist())


def read_text(path: Path, encode: Callable[[str], list[int]]) -> list[int]:
    """Token ids of a text file in UTF-8. Raises ConfigError when it cannot be read."""
    try:
        size = path.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise ConfigError(
                f"the text {path} has {size} bytes; at most {MAX_TEXT_BYTES} are read, shorten it"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the text {path} cannot be read: {error}") from error
    # Tokenizers take more than linear time on one huge text; paragraphs lose nothing here.
    return [token for part in text.splitlines(keepends=True) for token in encode(part)]

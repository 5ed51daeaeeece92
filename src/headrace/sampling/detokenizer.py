"""Detokenizer: tokens to text as they come."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable


class Detokenizer:
    """Turns one sequence's tokens into text that only ever grows.

    A character is given out once all its bytes are there; bytes that can never become one are
    given as U+FFFD, one for each maximal part of a broken character (Unicode 16, section 3.9).
    All pushes and the flush together are ``bytes.decode("utf-8", "replace")`` of all bytes.
    Special tokens have no text.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], is_special: Callable[[int], bool]
    ) -> None:
        self._token_bytes = token_bytes
        self._is_special = is_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = True  # the last character pushed is complete, as far as is known

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete."""
        parts = [self._token_bytes(token) for token in token_ids if not self._is_special(token)]
        return self._decode(b"".join(parts))

    def push_one(self, token: int) -> str:
        """The text that this token completes."""
        return "" if self._is_special(token) else self._decode(self._token_bytes(token))

    def _decode(self, data: bytes) -> str:
        if self._whole:
            try:
                return data.decode()  # most tokens are whole characters: many times faster
            except UnicodeDecodeError:
                self._whole = False
        text = self._decoder.decode(data)
        self._whole = not self._decoder.getstate()[0]
        return text

    def flush(self) -> str:
        """What is left at the end: U+FFFD if a character was never completed, else nothing."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._whole = True
        return text

"""Vocabulary: how single tokens are shown in log-probabilities."""

from __future__ import annotations

from typing import Any

from headrace.api.engine import Tokenizer
from headrace.nouns.delta import TokenLogprob

MIN_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say; the value that OpenAI's API uses."""


class Vocabulary:
    """Shows a token as text; where its bytes are no text, as ``bytes:\\xe2\\x80``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def bytes_of(self, token: int) -> bytes:
        """The token's bytes; of a special token, those of its name."""
        if self._tokenizer.is_special(token):
            return self._tokenizer.special_text(token).encode()
        return self._tokenizer.token_bytes(token)

    def chat(self, entries: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any]:
        """The ``logprobs`` object of a chat choice."""
        content = []
        for entry in entries:
            shown = self._shown(entry.token, entry.logprob)
            shown["top_logprobs"] = [self._shown(token, p) for token, p in entry.top]
            content.append(shown)
        return {"content": content, "refusal": None}

    def _shown(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.bytes_of(token)
        return {"token": text_of(data), "logprob": finite(logprob), "bytes": list(data)}


class LegacyLogprobs:
    """The ``logprobs`` objects of one choice of a completion, as its tokens come.

    ``text_offset`` counts characters from the output's start to where a token begins; a token
    inside a character has that character's offset.
    """

    def __init__(self, vocabulary: Vocabulary, top: int) -> None:
        self._vocabulary = vocabulary
        self._top = top
        self._characters = 0

    def take(self, entries: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any]:
        """The object for the next tokens."""
        tokens, offsets, tops = [], [], []
        for entry in entries:
            data = self._vocabulary.bytes_of(entry.token)
            tokens.append(text_of(data))
            inside = data[:1] != b"" and _continues(data[0])
            offsets.append(max(0, self._characters - inside))
            self._characters += sum(not _continues(byte) for byte in data)
            likeliest = [*entry.top, (entry.token, entry.logprob)]
            tops.append({text_of(self._vocabulary.bytes_of(t)): finite(p) for t, p in likeliest})
        return {
            "tokens": tokens,
            "token_logprobs": [finite(entry.logprob) for entry in entries],
            "top_logprobs": tops if self._top else None,
            "text_offset": offsets,
        }


def text_of(data: bytes) -> str:
    """The bytes as text, or their values where they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)


def _continues(byte: int) -> bool:
    return byte & 0xC0 == 0x80

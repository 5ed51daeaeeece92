"""CompletionAnswer: what /v1/completions sends, whole or in chunks."""

from __future__ import annotations

from typing import Any

import orjson

from headrace.api.generation import Choice, Piece, Total
from headrace.api.vocabulary import LegacyLogprobs, Vocabulary


class CompletionAnswer:
    """``logprobs`` is the number of likeliest tokens to report, None for no report at all.

    ``created`` is in Unix seconds; with ``usage_chunk`` a stream ends with the token counts.
    """

    def __init__(
        self,
        id: str,
        model: str,
        created: int,
        vocabulary: Vocabulary,
        *,
        logprobs: int | None,
        usage_chunk: bool,
    ) -> None:
        self._head = {"id": id, "object": "text_completion", "created": created, "model": model}
        self._vocabulary = vocabulary
        self._logprobs = logprobs
        self._usage_chunk = usage_chunk
        self._reporters: dict[int, LegacyLogprobs] = {}
        # Of a chunk only the choice changes: the rest is written once.
        self._before = b"data: " + orjson.dumps(self._head)[:-1] + b',"choices":['
        self._after = b'],"usage":null}\n\n' if usage_chunk else b"]}\n\n"

    def whole(self, choices: list[Choice], usage: Total) -> bytes:
        """The answer in one piece."""
        shown = [
            {
                "index": number,
                "text": "".join(choice.text),
                "logprobs": self._report(number, choice.logprobs),
                "finish_reason": choice.finish_reason and choice.finish_reason.value,
            }
            for number, choice in enumerate(choices)
        ]
        return orjson.dumps({**self._head, "choices": shown, "usage": usage.body()})

    def piece(self, piece: Piece) -> bytes:
        number, delta = piece
        if not delta.text and not delta.logprobs and delta.finish_reason is None:
            return b""
        choice = {
            "index": number,
            "text": delta.text,
            "logprobs": self._report(number, delta.logprobs) if delta.logprobs else None,
            "finish_reason": delta.finish_reason and delta.finish_reason.value,
        }
        return self._before + orjson.dumps(choice) + self._after

    def end(self, usage: Total) -> bytes:
        if not self._usage_chunk:
            return b""
        chunk = {**self._head, "choices": [], "usage": usage.body()}
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _report(self, number: int, entries: Any) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        reporter = self._reporters.get(number)
        if reporter is None:
            reporter = LegacyLogprobs(self._vocabulary, self._logprobs)
            self._reporters[number] = reporter
        return reporter.take(entries)

"""ChatAnswer: what /v1/chat/completions sends, whole or in chunks."""

from __future__ import annotations

from typing import Any

import orjson

from headrace.api.generation import Choice, Piece, Total
from headrace.api.vocabulary import Vocabulary


class ChatAnswer:
    """``created`` is in Unix seconds; with ``usage_chunk`` a stream ends with the token counts."""

    def __init__(
        self,
        id: str,
        model: str,
        created: int,
        vocabulary: Vocabulary,
        *,
        logprobs: bool,
        usage_chunk: bool,
    ) -> None:
        self._id, self._model, self._created = id, model, created
        self._vocabulary = vocabulary
        self._logprobs = logprobs
        self._usage_chunk = usage_chunk
        self._started: set[int] = set()
        # Of a chunk only the choice changes: the rest is written once.
        self._before = b"data: " + orjson.dumps(self._head("chunk"))[:-1] + b',"choices":['
        self._after = b'],"usage":null}\n\n' if usage_chunk else b"]}\n\n"

    def whole(self, choices: list[Choice], usage: Total) -> bytes:
        """The answer in one piece."""
        shown = [
            {
                "index": number,
                "message": {
                    "role": "assistant",
                    "content": "".join(choice.text),
                    "refusal": None,
                },
                "logprobs": self._vocabulary.chat(choice.logprobs) if self._logprobs else None,
                "finish_reason": choice.finish_reason and choice.finish_reason.value,
            }
            for number, choice in enumerate(choices)
        ]
        return orjson.dumps({**self._head(), "choices": shown, "usage": usage.body()})

    def piece(self, piece: Piece) -> bytes:
        number, delta = piece
        events = b""
        if number not in self._started:
            self._started.add(number)
            events = self._chunk(number, {"role": "assistant", "content": "", "refusal": None})
        if delta.text or delta.logprobs:
            events += self._chunk(
                number,
                {"content": delta.text},
                self._vocabulary.chat(delta.logprobs) if delta.logprobs else None,
            )
        if delta.finish_reason is not None:
            events += self._chunk(number, {}, finish_reason=delta.finish_reason.value)
        return events

    def end(self, usage: Total) -> bytes:
        if not self._usage_chunk:
            return b""
        chunk = {**self._head("chunk"), "choices": [], "usage": usage.body()}
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _head(self, kind: str = "") -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk" if kind else "chat.completion",
            "created": self._created,
            "model": self._model,
        }

    def _chunk(
        self,
        number: int,
        delta: dict[str, str | None],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": number,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._before + orjson.dumps(choice) + self._after

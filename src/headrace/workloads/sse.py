"""Server-sent events of an OpenAI-compatible completion, taken in as the bytes arrive."""

from __future__ import annotations

from array import array
from typing import Any

import orjson

from headrace.workloads.record import Record

MAX_LINE = 2**24


class StreamFault(Exception):
    """The stream is not what the API promises; ``kind`` is the error's kind."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class CompletionStream:
    """Books the chunks of one streamed completion on a record.

    A chunk with text is a delivery; the chunk that tells why the output ended is its end, and the
    one delivery of an output without any text. Output tokens are those of the ``usage`` chunk;
    without one, chunks with text are counted instead.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._rest = b""
        self._texts = 0
        self._times = array("d")
        self._end = 0.0
        self._usage: dict[str, Any] | None = None
        self.finished = False

    def feed(self, data: bytes, now: float) -> None:
        """Takes in what arrived at ``now``. Raises StreamFault."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise StreamFault("bad_stream", f"a line is longer than {MAX_LINE} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload != b"[DONE]":
                    self._chunk(payload, now)

    def close(self) -> None:
        """Fills in the record. Raises StreamFault when the stream ended too early."""
        record = self._record
        if not self.finished:
            raise StreamFault("incomplete", "the stream ended before the output did")
        record.deliveries = self._times or array("d", [self._end])
        record.end = self._end
        record.output_tokens = self._texts
        if self._usage is not None:
            book_usage(record, self._usage)

    def _chunk(self, payload: bytes, now: float) -> None:
        try:
            chunk = orjson.loads(payload)
            if "error" in chunk:
                raise StreamFault(*error_of(chunk, "stream_error"))
            choices = chunk.get("choices") or ()
            for choice in choices:
                if choice.get("text"):
                    self._texts += 1
                    self._times.append(now)
                if choice.get("finish_reason") is not None:
                    self.finished = True
                    self._end = now
            if chunk.get("usage"):
                self._usage = chunk["usage"]
                if timings := chunk.get("timings"):  # llama.cpp tells cached tokens here
                    self._usage.setdefault("_cached", timings.get("cache_n"))
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise StreamFault("bad_stream", f"not a chunk: {payload[:100]!r}") from error


def book_usage(record: Record, usage: dict[str, Any]) -> None:
    """Token counts as the server tells them."""
    record.output_tokens = int(usage.get("completion_tokens") or 0)
    record.prompt_tokens = int(usage.get("prompt_tokens") or record.prompt_tokens)
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens", usage.get("_cached"))
    record.cached = None if cached is None else int(cached)


def error_of(body: Any, fallback: str) -> tuple[str, str]:
    """(kind, message) of an error in OpenAI's shape, or in about that shape."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        kind = error.get("code") or error.get("type")
        kind = kind if isinstance(kind, str) else fallback
        return kind, str(error.get("message") or error)
    return fallback, str(error)

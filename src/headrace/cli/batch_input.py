"""Lines of a batch file: OpenAI's batch lines, or plain prompts, one JSON value a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from headrace.cli.ledger import digest
from headrace.nouns.errors import ConfigError

MAX_LINE = 16 * 2**20
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
BATCH_FIELDS = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request to be sent to ``url``; ``digest`` stands for the line's content."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]
    digest: int


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request, and why. ``raw`` is its text, shortened if it is huge."""

    number: int
    custom_id: str | None
    reason: str
    raw: str


class LineError(Exception):
    """Why a line is bad."""

    def __init__(self, reason: str, custom_id: str | None = None) -> None:
        super().__init__(reason)
        self.custom_id = custom_id


def open_input(path: Path) -> BinaryIO:
    """Opens the batch file. Raises ConfigError when it cannot be read."""
    try:
        if path.is_dir():
            raise ConfigError(f"the input {path} is a directory; give a file of JSON lines")
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"the input {path} cannot be read: {error.strerror}") from error


def count_lines(file: BinaryIO) -> int:
    """Line breaks in a file, from its start, plus one for an unfinished last line."""
    lines, last = 0, b"\n"
    file.seek(0)
    while chunk := file.read(1 << 20):
        lines += chunk.count(b"\n")
        last = chunk[-1:]
    return lines + (last != b"\n")


def read_lines(file: BinaryIO, defaults: dict[str, Any]) -> Iterator[BatchLine | BadLine]:
    """The file's lines in order, blank ones left out; ``defaults`` fill fields of the bodies."""
    file.seek(0)
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE)
            reason = f"the line is longer than {MAX_LINE} bytes; shorten it"
            yield BadLine(number, None, reason, "")
            continue
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        raw = raw.strip()
        if not raw:
            continue
        try:
            yield parse_line(number, raw, defaults)
        except LineError as error:
            shown = raw[:10_000].decode("utf-8", "replace")
            yield BadLine(number, error.custom_id, str(error), shown)


def parse_line(number: int, raw: bytes, defaults: dict[str, Any]) -> BatchLine:
    """The request of a line. Raises LineError for what is neither form of request."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise LineError(f"not valid JSON: {error}") from None
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise LineError("a line is a JSON object or a JSON string")
    custom_id = value.get("custom_id", f"line-{number}")
    if not isinstance(custom_id, str) or not custom_id:
        raise LineError("custom_id is not a text; give each line its own")
    if "url" in value or "body" in value or "method" in value:
        url, body = _batch_request(value, custom_id)
    else:
        url, body = _plain_request(value, custom_id)
    if "max_completion_tokens" in body:  # the newer name of max_tokens
        defaults = {name: value for name, value in defaults.items() if name != "max_tokens"}
    return BatchLine(number, custom_id, url, {**defaults, **body}, digest(raw))


def _batch_request(value: dict[str, Any], custom_id: str) -> tuple[str, dict[str, Any]]:
    if "custom_id" not in value:
        raise LineError("custom_id is missing; give each line its own")
    unknown = sorted(value.keys() - BATCH_FIELDS)
    if unknown:
        raise LineError(
            f"unknown field {unknown[0]!r}; a batch line has custom_id, method, url and body",
            custom_id,
        )
    if value.get("method", "POST") != "POST":
        raise LineError(f"method is {value['method']!r}; it must be 'POST'", custom_id)
    url = value.get("url")
    if url not in (COMPLETIONS, CHAT):
        raise LineError(f"url is {url!r}; it must be {CHAT!r} or {COMPLETIONS!r}", custom_id)
    body = value.get("body")
    if not isinstance(body, dict):
        raise LineError("body is missing or no JSON object", custom_id)
    return _checked(url, body, custom_id)


def _plain_request(value: dict[str, Any], custom_id: str) -> tuple[str, dict[str, Any]]:
    body = {name: field for name, field in value.items() if name != "custom_id"}
    if ("prompt" in body) == ("messages" in body):
        raise LineError("give either prompt or messages, or a batch line with url", custom_id)
    return _checked(CHAT if "messages" in body else COMPLETIONS, body, custom_id)


def _checked(url: str, body: dict[str, Any], custom_id: str) -> tuple[str, dict[str, Any]]:
    if body.get("stream"):
        raise LineError("stream is true; answers of a batch are not streamed, remove it", custom_id)
    return url, body

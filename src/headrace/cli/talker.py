"""Talker: who answers in a chat, an engine in this process or a server elsewhere."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from headrace.nouns.errors import HeadraceError, InvalidRequest
from headrace.nouns.sampling_params import SamplingParams

if TYPE_CHECKING:
    from headrace.llm import LLM

Messages = list[dict[str, str]]
CONNECT_SECONDS = 300.0  # also the longest silence within an answer


@dataclass(frozen=True, slots=True)
class Wishes:
    """How answers are made; None leaves it to the model's server."""

    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


class Talker(Protocol):
    """``reply`` yields an answer's text in pieces; closing it early stops the answer."""

    @property
    def name(self) -> str: ...

    def reply(self, messages: Messages) -> Generator[str, None, None]: ...


class LocalTalker:
    """Answers with an engine in this process."""

    def __init__(self, llm: LLM, wishes: Wishes) -> None:
        self._llm = llm
        self._params = SamplingParams(
            temperature=1.0 if wishes.temperature is None else wishes.temperature,
            max_tokens=wishes.max_tokens,
            seed=wishes.seed,
        )

    @property
    def name(self) -> str:
        return self._llm.model_name

    def reply(self, messages: Messages) -> Generator[str, None, None]:
        """Raises InvalidRequest, such as for a conversation that has become too long."""
        for delta in self._llm.stream(self._llm.render(messages), self._params):
            if delta.error is not None:
                raise HeadraceError(f"the answer failed: {delta.error}")
            if delta.text:
                yield delta.text


class RemoteTalker:
    """Answers with an OpenAI-compatible server; ``url`` with or without the closing ``/v1``.

    ``model`` None takes the first that the server lists. Raises HeadraceError when the server
    cannot be reached or refuses.
    """

    def __init__(self, url: str, model: str | None, key: str | None, wishes: Wishes) -> None:
        if not url.startswith(("http://", "https://")):
            raise HeadraceError(f"the URL {url!r} must begin with http:// or https://")
        self._base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._key = key
        self._wishes = wishes
        self.name = model or self._first_model()

    def reply(self, messages: Messages) -> Generator[str, None, None]:
        asked = {
            "temperature": self._wishes.temperature,
            "max_tokens": self._wishes.max_tokens,
            "seed": self._wishes.seed,
        }
        body: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        body |= {"model": self.name, "messages": messages, "stream": True}
        with self._open("/chat/completions", json.dumps(body).encode()) as response:
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield _text_of(json.loads(data))

    def _first_model(self) -> str:
        with self._open("/models") as response:
            listed = json.loads(response.read()).get("data") or []
        if not listed:
            raise HeadraceError(f"the server at {self._base} lists no models")
        return str(listed[0]["id"])

    def _open(self, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._base + path, body, headers)
        try:
            opened: http.client.HTTPResponse = urllib.request.urlopen(
                request, timeout=CONNECT_SECONDS
            )
        except urllib.error.HTTPError as error:
            with error:
                told = _message_of(error.read())
            if error.code == 400:
                raise InvalidRequest(told) from None
            raise HeadraceError(f"{self._base} answered {error.code}: {told}") from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise HeadraceError(f"{self._base} cannot be reached: {reason}") from None
        return opened


def _text_of(chunk: dict[str, Any]) -> str:
    if "error" in chunk:
        raise HeadraceError(f"the answer failed: {chunk['error'].get('message', chunk['error'])}")
    choices = chunk.get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or "")


def _message_of(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace") or "no reason given"

"""HttpEndpoint: an OpenAI-compatible server, ours or a peer's, over /v1/completions."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import aiohttp
import orjson

from headrace.nouns.errors import HeadraceError
from headrace.workloads.endpoint import clock
from headrace.workloads.job import Job
from headrace.workloads.record import Record
from headrace.workloads.sse import CompletionStream, StreamFault, book_usage, error_of

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 600.0  # longest wait for the next byte of an answer
IDLE_SECONDS = 2.0  # less than servers wait, so that none hangs up on a request just sent
WARM_UP_TOKENS = 4

# What not every server knows, in the order in which it is done without.
IGNORE_EOS: dict[str, Any] = {"ignore_eos": True}
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


class HttpEndpoint:
    """Sends greedy completions. Use as ``async with``; then ``warm_up`` before anything else.

    ``url`` is with or without the closing ``/v1``. ``model`` None takes the first that the server
    lists. With ``stream`` false answers come in one piece and only end-to-end latency is known.
    """

    def __init__(
        self, url: str, model: str | None = None, key: str | None = None, stream: bool = True
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise HeadraceError(f"the URL {url!r} must begin with http:// or https://")
        self._base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._stream = stream
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None
        self._model = model
        self._extras: dict[str, Any] = {}
        self.max_context: int | None = None
        self.notes: list[str] = []

    @property
    def name(self) -> str:
        return f"{self._model or 'unnamed model'} at {self._base}"

    async def __aenter__(self) -> HttpEndpoint:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
        self._session = aiohttp.ClientSession(
            timeout=timeout, connector=connector, headers=self._headers
        )
        try:
            await self._find_model()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def warm_up(self, job: Job) -> Record:
        """Sends a short request, and finds out which extensions the server takes.

        What it refuses is done without and noted in ``notes``. Raises HeadraceError when the
        server answers none of the forms.
        """
        short = Job(0.0, job.prompt, min(WARM_UP_TOKENS, job.output_tokens))
        usage = USAGE if self._stream else {}
        record = None
        for extras in ({**IGNORE_EOS, **usage}, usage, IGNORE_EOS, {}):
            self._extras = extras
            record = await self.send(short, clock())
            if record.error is None or not record.detail.startswith("HTTP 4"):
                break
        assert record is not None
        if record.error is not None:
            raise HeadraceError(f"{self._base} cannot be measured: {record.detail}")
        if "ignore_eos" not in self._extras:
            self.notes.append("the server knows no ignore_eos: outputs may end before their length")
        if self._stream and "stream_options" not in self._extras:
            self.notes.append("the server tells no token counts: chunks are counted instead")
        return record

    async def send(self, job: Job, due: float) -> Record:
        assert self._session is not None
        body = self._body(job)
        record = Record(due, clock(), prompt_tokens=len(job.prompt))
        if isinstance(job.prompt, str):
            record.prompt_tokens = 0  # until the server tells
        try:
            async with self._session.post(f"{self._base}/completions", data=body) as response:
                if response.status != 200:
                    kind, message = await _refusal(response)
                    return record.fail(kind, f"HTTP {response.status}: {message}", clock())
                if self._stream:
                    await _read_stream(response, record)
                else:
                    await _read_whole(response, record)
        except StreamFault as fault:
            return record.fail(fault.kind, str(fault), clock())
        except TimeoutError as error:
            return record.fail("timeout", str(error) or "no answer in time", clock())
        except aiohttp.ClientConnectorError as error:
            return record.fail("cannot_connect", str(error), clock())
        except (aiohttp.ClientError, OSError) as error:
            return record.fail("disconnected", f"{type(error).__name__}: {error}", clock())
        return record

    def _body(self, job: Job) -> bytes:
        body: dict[str, Any] = {
            "prompt": job.prompt,
            "max_tokens": job.output_tokens,
            "temperature": 0,
            "stream": self._stream,
            **self._extras,
        }
        if self._model is not None:
            body["model"] = self._model
        return orjson.dumps(body)

    async def _find_model(self) -> None:
        """The model to ask for, and its context length where the server tells it."""
        assert self._session is not None
        try:
            async with self._session.get(f"{self._base}/models") as response:
                if response.status in (401, 403):
                    raise HeadraceError(
                        f"{self._base} answered {response.status}; give a key with --api-key-file"
                    )
                listed = await response.json(content_type=None) if response.status == 200 else {}
        except (aiohttp.ClientError, OSError) as error:
            raise HeadraceError(f"{self._base} cannot be reached: {error}") from None
        except ValueError:
            listed = {}
        cards = listed.get("data") if isinstance(listed, dict) else None
        cards = [c for c in cards or [] if isinstance(c, dict)] if isinstance(cards, list) else []
        for card in cards:
            if self._model in (None, card.get("id")):
                self._model = str(card["id"]) if "id" in card else self._model
                length = card.get("max_model_len")
                self.max_context = length if isinstance(length, int) and length > 1 else None
                return


async def _read_stream(response: aiohttp.ClientResponse, record: Record) -> None:
    stream = CompletionStream(record)
    async for data in response.content.iter_any():
        stream.feed(data, clock())
    stream.close()


async def _read_whole(response: aiohttp.ClientResponse, record: Record) -> None:
    data = await response.read()
    record.end = clock()
    try:
        book_usage(record, orjson.loads(data)["usage"])
    except (ValueError, TypeError, KeyError) as error:
        raise StreamFault("bad_answer", f"no completion with usage: {data[:100]!r}") from error


async def _refusal(response: aiohttp.ClientResponse) -> tuple[str, str]:
    """(kind, message) of an answer other than 200."""
    fallback = f"http_{response.status}"
    data = await response.read()
    try:
        return error_of(orjson.loads(data), fallback)
    except ValueError:
        return fallback, data[:200].decode("utf-8", "replace") or "no reason given"

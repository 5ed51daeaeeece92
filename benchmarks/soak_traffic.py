"""Traffic of a soak: requests of many kinds, some of them wrong, some of them given up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

TEXT = (
    "the river runs past a mill and every wheel takes its share of water before the sea asks for"
    " the rest so we count what enters and what leaves"
)
WORDS = TEXT.split()
PREFIXES = 8
PREFIX_WORDS = 300
SHORTEST, LONGEST = 1, 700  # words of a prompt
MAX_OUTPUT = 128

# Requests that must be refused: what is wrong with each, and the status that must come.
WRONG: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("unknown field", {"prompt": "x", "colour": "red"}, 400),
    ("temperature", {"prompt": "x", "temperature": -1}, 400),
    ("no prompt", {"max_tokens": 3}, 400),
    ("empty prompt", {"prompt": [], "max_tokens": 3}, 400),
    ("token outside the vocabulary", {"prompt": [2**31 - 1]}, 400),
    ("too long", {"prompt": "a b c", "max_tokens": 2**30}, 400),
    ("n", {"prompt": "x", "n": 0}, 400),
    ("wrong type", {"prompt": {"text": "x"}}, 400),
    ("another model", {"prompt": "x", "model": "no-such-model"}, 404),
)


@dataclass(slots=True)
class Tally:
    """What happened; ``surprises`` are errors that nobody asked for."""

    done: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0
    surprises: list[str] = field(default_factory=list)

    def surprise(self, kind: str, what: str) -> None:
        self.done["surprise"] += 1
        if len(self.surprises) < 100:
            self.surprises.append(f"{kind}: {' '.join(what.split())[:300]}")


class Traffic:
    """``clients`` at a time, each sending one request after another until told to stop.

    The sequence of requests depends on ``seed`` only; when a client hangs up depends on time too.
    """

    def __init__(self, url: str, seed: int) -> None:
        self._url = url.rstrip("/")
        self._random = random.Random(seed)
        self._prefixes = [self._words(PREFIX_WORDS) for _ in range(PREFIXES)]
        self.tally = Tally()
        self.stopped = asyncio.Event()

    async def run(self, clients: int) -> None:
        """Returns when every client has ended its last request after ``stopped`` was set."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=300.0)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(clients):
                group.create_task(self._client(session))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        kinds = (self._whole, self._streamed, self._chat, self._hang_up, self._wrong)
        while not self.stopped.is_set():
            (kind,) = self._random.choices(kinds, weights=(25, 30, 15, 20, 10))
            name = kind.__name__.lstrip("_")
            try:
                await kind(session)
                self.tally.done[name] += 1
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
                self.tally.surprise(name, f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.5)  # a dead server must not be asked a million times

    async def _whole(self, session: aiohttp.ClientSession) -> None:
        async with session.post(f"{self._url}/v1/completions", json=self._body()) as response:
            answer = await response.json()
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}: {answer}")
            self.tally.output_tokens += answer["usage"]["completion_tokens"]

    async def _streamed(self, session: aiohttp.ClientSession) -> None:
        body = self._body() | {"stream": True, "stream_options": {"include_usage": True}}
        await self._stream(session, "completions", body)

    async def _chat(self, session: aiohttp.ClientSession) -> None:
        turns = [{"role": "user", "content": self._prompt(200)}]
        if self._random.random() < 0.5:
            turns += [{"role": "assistant", "content": self._words(20)},
                      {"role": "user", "content": self._words(30)}]  # fmt: skip
        body = self._sampling() | {"messages": turns, "stream": True}
        await self._stream(session, "chat/completions", body)

    async def _hang_up(self, session: aiohttp.ClientSession) -> None:
        """Goes away at a random moment: while waiting, while reading, or just before the end."""
        body = self._body() | {"stream": self._random.random() < 0.7, "ignore_eos": True}
        patience = self._random.choice((0.0, 0.01, 0.3, 3.0)) * self._random.random()
        chunks = self._random.randrange(40)
        try:
            async with asyncio.timeout(patience + 0.001) as limit:
                async with session.post(f"{self._url}/v1/completions", json=body) as response:
                    limit.reschedule(None)
                    async for _ in response.content.iter_any():
                        chunks -= 1
                        if chunks < 0:
                            response.close()
                            return
        except TimeoutError:
            return

    async def _wrong(self, session: aiohttp.ClientSession) -> None:
        what, body, status = self._random.choice(WRONG)
        async with session.post(f"{self._url}/v1/completions", json=body) as response:
            text = await response.text()
            if response.status != status:
                raise ValueError(f"{what} got {response.status} instead of {status}: {text}")

    async def _stream(self, session: aiohttp.ClientSession, route: str, body: Any) -> None:
        ended, tokens = False, 0
        async with session.post(f"{self._url}/v1/{route}", json=body) as response:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}: {await response.text()}")
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    ended = True
                elif line.startswith(b"data:"):
                    chunk = orjson.loads(line[5:])
                    if "error" in chunk:
                        raise ValueError(f"within the stream: {chunk['error']}")
                    tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        if not ended:
            raise ValueError("the stream ended without [DONE]")
        self.tally.output_tokens += tokens

    def _body(self) -> dict[str, Any]:
        draw = self._random.random()
        if draw < 0.15:  # token ids, and several prompts
            ids = [self._random.randrange(5, 1000) for _ in range(self._random.randint(1, 400))]
            prompt: Any = ids if draw < 0.1 else [ids, ids[:-1] or ids, ids[::-1]]
        else:
            prompt = self._prompt(self._length())
        return self._sampling() | {"prompt": prompt}

    def _sampling(self) -> dict[str, Any]:
        pick = self._random
        body: dict[str, Any] = {"max_tokens": 1 + int(MAX_OUTPUT ** pick.random())}
        if pick.random() < 0.5:
            body |= {"temperature": 0}
        else:
            body |= {"temperature": pick.choice((0.5, 1.0, 1.5)), "seed": pick.randrange(2**32)}
        for chance, fields in (
            (0.15, {"n": pick.randint(2, 4)}),
            (0.20, {"stop": [pick.choice(WORDS), "\n\n"]}),
            (0.15, {"top_k": 40, "top_p": 0.9}),
            (0.10, {"presence_penalty": 0.5, "repetition_penalty": 1.1}),
            (0.10, {"logit_bias": {"10": -100}}),
        ):
            if pick.random() < chance:
                body |= fields
        return body

    def _prompt(self, words: int) -> str:
        """A text of its own, or one that begins as others do."""
        text = self._words(words)
        if self._random.random() < 0.4:
            return f"{self._random.choice(self._prefixes)} {text}"
        return text

    def _length(self) -> int:
        return int(SHORTEST * (LONGEST / SHORTEST) ** self._random.random())

    def _words(self, count: int) -> str:
        return " ".join(self._random.choices(WORDS, k=count))

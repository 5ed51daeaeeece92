"""Engines and services on the mock executor, with bytes for tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from headrace.engine.build import BuiltEngine, ModelInfo, policies
from headrace.engine.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.output import Output
from headrace.engine.service import EngineService
from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.clock import WallClock
from headrace.nouns.delta import Delta
from headrace.nouns.event import Sink
from headrace.nouns.request import Request
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled
from headrace.sampling.detokenizer import Detokenizer
from headrace.scheduling.limits import Limits
from headrace.scheduling.scheduler import Scheduler
from tests.scheduling.mock_executor import VOCAB, MockExecutor

END = 0  # the end token of typed texts; as a byte it is never typed


class Typist(MockExecutor):
    """Types ``texts[request id]`` byte by byte, then END; what is not listed is as in the mock."""

    def __init__(self, block_size: int = 4, depth: int = 1) -> None:
        super().__init__(block_size, depth)
        self.texts: dict[str, bytes] = {}
        self.logprobs = False

    def sample(self, seq: Sequence, token: int) -> Sampled:
        text = self.texts.get(seq.request.id)
        if text is not None:
            token = text[seq.output_len] if seq.output_len < len(text) else END
        if not self.logprobs:
            return Sampled(token)
        return Sampled(token, -0.5 * seq.output_len, ((token, -0.5), (token + 1, -1.5)))


def token_bytes(token: int) -> bytes:
    return bytes([token % 256])


def new_output(seq: Sequence) -> Output:
    return Output(seq, Detokenizer(token_bytes, lambda token: token == END))


def build_engine(
    executor: MockExecutor,
    config: EngineConfig | None = None,
    emit: Sink = lambda event: None,
    *,
    blocks: int = 64,
    budget: int = 16,
) -> Engine:
    config = config or EngineConfig(max_sequences=8)
    memory = SequenceMemory(blocks, executor.cache.block_size, config.prefix_cache)
    limits = Limits(budget, 256, config.max_sequences)
    scheduler = Scheduler(memory, policies(config), limits, emit, tenants=config.tenants)
    return Engine(scheduler, executor, WallClock(), new_output)


class Gate:
    """Lets ``steps`` steps pass, then holds the executor until it is opened."""

    def __init__(self, executor: MockExecutor, steps: int = 0) -> None:
        self.entered = threading.Event()  # the first step held is there
        self._open = threading.Event()
        submit = executor.submit

        def wait_and_submit(step: Any) -> None:
            nonlocal steps
            steps -= 1
            if steps < 0:
                self.entered.set()
                assert self._open.wait(60)
            submit(step)

        executor.submit = wait_and_submit  # type: ignore[method-assign]

    def open(self) -> None:
        self._open.set()


def builder_of(
    executor: MockExecutor, *, blocks: int = 64, max_context: int = 64
) -> Callable[[EngineConfig, Sink, Callable[[str], None]], BuiltEngine]:
    def build(config: EngineConfig, emit: Sink, report: Callable[[str], None]) -> BuiltEngine:
        report("mock engine")
        engine = build_engine(executor, config, emit, blocks=blocks)
        model = ModelInfo(
            name="mock",
            tokenizer=cast(Any, None),
            chat_template=None,
            max_context=max_context,
            eos_ids=frozenset([END]),
            vocab_size=VOCAB,
            weights="float32",
            created=0,
        )
        return BuiltEngine(engine, model, blocks, executor.cache.block_size)

    return build


@contextmanager
def serving(
    executor: MockExecutor | None = None, *, blocks: int = 64, max_context: int = 64, **options: Any
) -> Iterator[EngineService]:
    """A ready service; closed at the end, and checked: nothing leaks."""
    executor = executor or Typist()
    options = {"max_sequences": 8, **options}
    sinks = options.pop("sinks", ())
    build = builder_of(executor, blocks=blocks, max_context=max_context)
    service = EngineService(EngineConfig(**options), sinks, lambda line: None, build)
    service.start()
    service.wait_ready(30)
    try:
        yield service
    finally:
        service.close()
    assert executor.closed
    if service.status().failure is None:
        scheduler = service.built.engine.scheduler
        scheduler.check_integrity()
        assert not scheduler.has_work
        assert scheduler.memory.available == blocks
        assert not service.built.engine._outputs


class Listener:
    """Collects the deltas of one request and checks how they end."""

    def __init__(self, n: int = 1) -> None:
        self.n = n
        self.deltas: list[Delta] = []
        self.ended = threading.Event()
        self.started = threading.Event()
        self._open = set(range(n))

    def __call__(self, delta: Delta) -> None:
        assert delta.index in self._open, "a delta after the last one"
        self.deltas.append(delta)
        self.started.set()
        if delta.finish_reason is not None:
            self._open.discard(delta.index)
        if not self._open:
            self.ended.set()

    def wait(self) -> list[Delta]:
        """The final deltas by index."""
        assert self.ended.wait(60), "the request does not end"
        finals = [delta for delta in self.deltas if delta.finish_reason is not None]
        assert sorted(delta.index for delta in finals) == list(range(self.n))
        return sorted(finals, key=lambda delta: delta.index)

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    def tokens(self, index: int = 0) -> list[int]:
        return [t for delta in self.deltas if delta.index == index for t in delta.tokens]


def asked(
    service: EngineService, id: str = "r", prompt: tuple[int, ...] = (1, 2), **more: Any
) -> Request:
    n = more.pop("n", 1)
    return service.request(prompt, SamplingParams(**{"max_tokens": 8, **more}), n=n, id=id)


def submit(service: EngineService, id: str = "r", **more: Any) -> Listener:
    listener = Listener(more.get("n", 1))
    service.submit(asked(service, id, **more), listener)
    return listener

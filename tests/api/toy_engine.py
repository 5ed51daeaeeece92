"""The real engine service on a toy model that echoes its prompt, and a toy tokenizer of bytes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.engine.build import BuiltEngine, ModelInfo, policies
from headrace.engine.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.output import Output
from headrace.engine.service import EngineService
from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns import sequence as nouns
from headrace.nouns.clock import WallClock
from headrace.nouns.event import Sink
from headrace.nouns.step import Sampled, Slice, Step, StepResult, Work
from headrace.nouns.step_cost import StepCost
from headrace.nouns.tenant import Tenants
from headrace.sampling.detokenizer import Detokenizer
from headrace.scheduling.limits import Limits
from headrace.scheduling.scheduler import Scheduler

SPECIAL = ("<end>", "<start>", "<fault>", "<slow>")
END, START, FAULT, SLOW = range(256, 260)
MAX_CONTEXT = 512
BLOCK = 16


class ToyTokenizer:
    """A token a byte, and four special ones."""

    vocab_size = 260

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        ids = [START] if add_special else []
        while text:
            special = next((s for s in SPECIAL if parse_special and text.startswith(s)), None)
            if special is not None:
                ids.append(256 + SPECIAL.index(special))
            else:
                ids += text[0].encode()
            text = text[len(special or text[0]) :]
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        data = b"".join(
            (b"" if skip_special else self.special_text(i).encode())
            if self.is_special(i)
            else self.token_bytes(i)
            for i in ids
        )
        return data.decode(errors="replace")

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < 256 else b""

    def special_text(self, id: int) -> str:
        return SPECIAL[id - 256]

    def is_special(self, id: int) -> bool:
        return id >= 256


class ToyTemplate:
    """Writes the contents, and tools if ``takes_tools``; the last user message is echoed."""

    def __init__(self, takes_tools: bool = True) -> None:
        self.supports_tools = takes_tools

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        names = [tool["function"]["name"] for tool in tools or []]
        return "".join(f"[{name}]" for name in names) + "".join(
            message["content"] for message in messages
        )


class ToyExecutor:
    """Continues ``<start>abc`` with ``abc`` and an end token, over and over.

    A prompt with ``<fault>`` ends with an error; one with ``<slow>`` makes its steps 20 ms long.
    """

    depth = 1

    def __init__(self, step_seconds: float = 0.0) -> None:
        self._step_seconds = step_seconds
        self._results: deque[StepResult] = deque()
        self.forgotten = 0

    def submit(self, step: Step) -> None:
        slow = any(SLOW in s.sequence.request.prompt for s in step.slices)
        seconds = max(self._step_seconds, 0.02 if slow else 0.0)
        sampled = tuple(self._sample(s) if s.samples else None for s in step.slices)
        work = Work(operations=10 * step.tokens, bytes=3, seconds=seconds / 4)
        self._results.append(StepResult(step.id, sampled, elapsed=seconds, work=work))

    def collect(self) -> StepResult:
        result = self._results.popleft()
        time.sleep(result.elapsed)
        return result

    def forget(self, sequence: nouns.Sequence) -> None:
        self.forgotten += 1

    def close(self) -> None:
        self._results.clear()

    @staticmethod
    def _sample(slice: Slice) -> Sampled:
        seq = slice.sequence
        params = seq.request.params
        if FAULT in seq.request.prompt:
            return Sampled(-1, error="the logits are not finite")
        echo = [token for token in seq.request.prompt if token < 256]
        allowed = [*echo, END]
        token = allowed[seq.output_len % len(allowed)]
        if params.logprobs is None:
            return Sampled(token)
        top = tuple((t, -1.0 - i) for i, t in enumerate(range(65, 65 + params.logprobs)))
        return Sampled(token, -0.5, top)


def toy_builder(
    *,
    step_seconds: float = 0.0,
    may_load: threading.Event | None = None,
    blocks: int = 2048,
    template: ToyTemplate | None = None,
    load_error: Exception | None = None,
    cost: StepCost | None = None,
) -> Callable[[EngineConfig, Sink, Callable[[str], None]], BuiltEngine]:
    """What ``EngineService`` builds its engine with."""

    def build(config: EngineConfig, emit: Sink, report: Callable[[str], None]) -> BuiltEngine:
        if may_load is not None:
            may_load.wait(20)
        if load_error is not None:
            raise load_error
        tokenizer: Any = ToyTokenizer()
        memory = SequenceMemory(blocks, BLOCK, config.prefix_cache)
        limits = Limits(token_budget=256, step_tokens=256, sequences=config.max_sequences)
        scheduler = Scheduler(
            memory, policies(config), limits, emit, tenants=config.tenants, cost=cost
        )
        engine = Engine(
            scheduler,
            ToyExecutor(step_seconds),
            WallClock(),
            lambda seq: Output(seq, Detokenizer(tokenizer.token_bytes, tokenizer.is_special)),
        )
        chat_template: Any = template
        model = ModelInfo(
            name="toy",
            tokenizer=tokenizer,
            chat_template=chat_template,
            max_context=MAX_CONTEXT,
            eos_ids=frozenset({END}),
            vocab_size=tokenizer.vocab_size,
            weights="float32",
            created=1_700_000_000,
        )
        return BuiltEngine(engine, model, blocks, BLOCK)

    return build


def toy_service(
    max_queue: int = 1024,
    max_sequences: int = 64,
    tenants: Tenants | None = None,
    **toy: Any,
) -> EngineService:
    """A service that has not been started."""
    toy.setdefault("template", ToyTemplate())
    config = EngineConfig(
        model="toy",
        max_queue=max_queue,
        max_sequences=max_sequences,
        tenants=tenants or Tenants(),
    )
    return EngineService(config, builder=toy_builder(**toy))

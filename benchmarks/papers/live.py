"""The engine on this machine, driven step by step, with other policies for each run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence as Items
from typing import Any, cast

import numpy as np

from benchmarks.papers.load import Answer, Ask, Ran
from benchmarks.papers.setup import Setup
from headrace.engine.build import BuiltEngine, build
from headrace.engine.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.output import Output
from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.clock import WallClock
from headrace.nouns.delta import Delta
from headrace.nouns.event import Event, Kind
from headrace.nouns.request import Request
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason, Sequence
from headrace.nouns.step import Sampled
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.sampling.detokenizer import Detokenizer
from headrace.scheduling.scheduler import Scheduler

FIRST_ID, LAST_ID = 100, 40_000  # ordinary tokens of the default model
NAP = 0.0005


class EndedBy:
    """A sampler whose sequences end when their script says so, whatever the model would do.

    The scheduler learns of the end when it comes, as with a model's own end token.
    """

    def __init__(self, sampler: Any, ends: dict[str, int], eos: int) -> None:
        self._sampler, self._ends, self._eos = sampler, ends, eos

    def sample(self, logits: Any, sequences: list[Sequence]) -> list[Sampled]:
        chosen: list[Sampled] = self._sampler.sample(logits, sequences)
        return [self._ended(s, seq) for s, seq in zip(chosen, sequences, strict=True)]

    def forget(self, sequence: Sequence) -> None:
        self._sampler.forget(sequence)

    def _ended(self, sampled: Sampled, seq: Sequence) -> Sampled:
        if sampled.error is None and seq.output_len + 1 >= self._ends[seq.request.id]:
            return Sampled(self._eos)
        return Sampled(FIRST_ID) if sampled.token == self._eos else sampled


class LiveEngine:
    """A loaded model. Each ``run`` has a new scheduler and an empty cache.

    ``samples`` are the loads and seconds of all steps so far.
    """

    def __init__(self, model: str, *, block_size: int = 16, sequences: int = 64) -> None:
        self._built: BuiltEngine = build(
            EngineConfig(model=model, block_size=block_size, max_sequences=sequences),
            lambda event: None,
            lambda line: print(f"  {line}", file=sys.stderr),
        )
        engine = self._built.engine
        self._executor = cast(Any, engine.executor)
        self._sampler = self._executor.sampler
        self.limits = engine.scheduler.limits
        self.blocks = self._built.total_blocks
        self.block_size = block_size
        self.context = self._built.model.max_context
        self.name = f"{self._built.model.name}, {self._built.model.weights}"
        self._runs = 0
        self.samples: list[tuple[StepLoad, float]] = []
        self.run([Ask(0.0, 200, 8) for _ in range(min(32, sequences))], Setup(sequences=sequences))

    @property
    def where(self) -> str:
        return f"Live: {self.name} on this machine"

    def run(self, asks: Items[Ask], setup: Setup, cost: StepCost | None = None) -> Ran:
        """Sends the asks at their times and steps until all have ended.

        Raises RuntimeError when one fails or gives another number of tokens than it should.
        """
        self._runs += 1
        counts = _Counts()
        memory = SequenceMemory(
            min(setup.blocks or self.blocks, self.blocks), self.block_size, setup.prefix_cache
        )
        limits = setup.limits(self.limits.token_budget, self.limits.step_tokens)
        scheduler = Scheduler(
            memory, setup.policies(), limits, counts, tenants=setup.tenants, cost=cost
        )
        tokenizer = self._built.model.tokenizer
        engine = Engine(
            scheduler, self._executor, WallClock(),
            lambda seq: Output(seq, Detokenizer(tokenizer.token_bytes, tokenizer.is_special)),
        )  # fmt: skip
        engine.times.add(lambda load, seconds: self.samples.append((load, seconds)))
        answers, requests = self._prepare(asks)
        self._drive(engine, asks, requests, answers)
        for answer in answers.values():
            if answer.error is not None or len(answer.times) != answer.ask.output:
                got = f"{len(answer.times)} of {answer.ask.output} tokens"
                raise RuntimeError(f"a request of a run failed: {answer.error or got}")
        for request_id, preemptions in counts.preempted.items():
            answers[request_id].preemptions = preemptions
        return Ran(list(answers.values()), engine.steps, counts.padding)

    def close(self) -> None:
        self._executor.close()

    def _prepare(self, asks: Items[Ask]) -> tuple[dict[str, Answer], list[dict[str, Any]]]:
        """Answers to fill, and what the requests are made of once their time has come."""
        rng = np.random.default_rng([self._runs, 0x9C])
        eos = min(self._built.model.eos_ids)
        prefixes: dict[str, list[int]] = {}
        answers, requests, ends = {}, [], {}
        for number, ask in enumerate(asks):
            id = f"{self._runs}-{number}"
            prompt = rng.integers(FIRST_ID, LAST_ID, ask.prompt).tolist()
            known = prefixes.setdefault(ask.group, [])
            known += rng.integers(FIRST_ID, LAST_ID, max(0, ask.shared - len(known))).tolist()
            prompt[: ask.shared] = known[: ask.shared]
            answers[id], ends[id] = Answer(ask), ask.output
            requests.append(
                {
                    "id": id,
                    "prompt": tuple(prompt),
                    "max_tokens": ask.bound,
                    "eos_ids": frozenset({eos}),
                    "params": SamplingParams(temperature=0.0, max_tokens=ask.bound),
                    "tenant": ask.tenant,
                    "priority": ask.priority,
                }
            )
        self._executor.sampler = EndedBy(self._sampler, ends, eos)
        return answers, requests

    def _drive(
        self, engine: Engine, asks: Items[Ask], requests: list[dict[str, Any]],
        answers: dict[str, Answer],
    ) -> None:  # fmt: skip
        """Adds between steps what has come due meanwhile, as the engine's service does."""
        due = sorted(range(len(asks)), key=lambda i: asks[i].at + asks[i].held)
        start, position = time.monotonic(), 0
        while position < len(due) or engine.has_work:
            now = time.monotonic() - start
            while position < len(due):
                at = asks[due[position]].at + asks[due[position]].held
                if at > now:
                    break
                engine.add(Request(**requests[due[position]], arrival=start + at))
                position += 1
            if engine.has_work:
                before = engine.steps
                deltas = engine.step()
                book(deltas, answers, time.monotonic() - start)
                if engine.steps > before:
                    continue
                time.sleep(NAP)
            else:
                wait = asks[due[position]].at + asks[due[position]].held - now
                time.sleep(max(0.0, wait))


def book(deltas: list[Delta], answers: dict[str, Answer], now: float) -> None:
    """Puts what a step delivered at ``now`` into the answers, by request id."""
    for delta in deltas:
        answer = answers[delta.request_id]
        ended = delta.finish_reason is FinishReason.STOP  # the end token is not delivered
        answer.times.extend([now] * (len(delta.tokens) + ended))
        if delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
            answer.error = delta.error or delta.finish_reason.value
        if delta.usage is not None:
            answer.cached = delta.usage.cached


class _Counts:
    """An event sink: preemptions by request, and padding rows."""

    def __init__(self) -> None:
        self.preempted: dict[str, int] = {}
        self.padding = 0

    def __call__(self, event: Event) -> None:
        if event.kind is Kind.PREEMPTED and event.request_id is not None:
            self.preempted[event.request_id] = self.preempted.get(event.request_id, 0) + 1
        elif event.kind is Kind.PLANNED:
            self.padding += int(event.data["padding"])

"""Promise 1 on the whole engine: scheduler, shared memory, torch operators and sampler."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
from hypothesis import given, note, settings, target
from hypothesis import strategies as st

from headrace.engine.engine import Engine
from headrace.engine.output import Output
from headrace.execution.local import LocalExecutor
from headrace.memory.sequence_memory import SequenceMemory
from headrace.models.native import NATIVE_BLOCK
from headrace.nouns.clock import WallClock
from headrace.nouns.delta import Delta
from headrace.nouns.event import Event, Kind
from headrace.nouns.request import Request, Targets
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason, Sequence
from headrace.sampling.detokenizer import Detokenizer
from headrace.sampling.native_chooser import find_chooser
from headrace.sampling.sampler import Sampler
from headrace.scheduling.limits import Limits
from headrace.scheduling.registry import BUILT_IN, create
from headrace.scheduling.scheduler import Policies, Scheduler
from tests.execution.tiny import FORMATS, NATIVE, VOCAB, executor, tiny_transformer

PARAMS = (
    SamplingParams(temperature=0.0, logprobs=3),
    SamplingParams(temperature=0.9, top_p=0.9, seed=7, logprobs=1),
    SamplingParams(temperature=1.3, top_k=20, min_p=0.02, seed=11, repetition_penalty=1.2),
    SamplingParams(
        temperature=0.0, presence_penalty=0.5, frequency_penalty=0.3, logit_bias=((5, 2.0),)
    ),
)
SHARED = tuple(random.Random(99).randrange(VOCAB) for _ in range(96))


@dataclass
class Answer:
    """What a client got of one sequence."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[object] = field(default_factory=list)
    text: str = ""
    finish: FinishReason | None = None

    def take(self, delta: Delta) -> None:
        self.tokens.extend(delta.tokens)
        self.logprobs.extend(delta.logprobs)
        self.text += delta.text
        self.finish = delta.finish_reason


def make_engine(
    dtype: str,
    *,
    blocks: int = 256,
    block_size: int = 16,
    budget: int = 2048,
    sequences: int = 16,
    order: str = "fcfs",
    batching: str = "stall-free",
    admission: str = "watermark",
    preemption: str = "recompute",
    prefix_cache: bool = True,
) -> tuple[Engine, list[Event]]:
    if dtype in NATIVE:
        blocks, block_size = _in_native_blocks(blocks, block_size)
    local = executor(tiny_transformer(dtype, block_size=block_size), blocks, block_size)
    events: list[Event] = []
    policies = Policies(
        create("order", order),
        create("admission", admission),
        create("batching", batching),
        create("preemption", preemption),
    )
    memory = SequenceMemory(blocks, block_size, prefix_cache)
    limits = Limits(budget, max(budget, 2048), sequences)
    scheduler = Scheduler(memory, policies, limits, events.append)
    chooser, _ = find_chooser(local.transformer.device)
    runner = LocalExecutor(local.transformer, local.cache, Sampler(VOCAB, chooser))

    def new_output(seq: Sequence) -> Output:
        return Output(seq, Detokenizer(lambda token: bytes([token]), lambda token: False))

    return Engine(scheduler, runner, WallClock(), new_output), events


def _in_native_blocks(blocks: int, block_size: int) -> tuple[int, int]:
    """As many tokens in blocks that the C++ decoder takes."""
    size = max(block_size, NATIVE_BLOCK)
    return blocks * block_size // size, size


def prompt(seed: int) -> tuple[int, ...]:
    """Prompts of many lengths; every second one starts with a part of the shared prefix."""
    source = random.Random(seed)
    head = SHARED[: source.choice([0, 16, 33, 96])] if seed % 2 else ()
    return head + tuple(source.randrange(VOCAB) for _ in range(source.randint(1, 60)))


def request(seed: int) -> Request:
    return Request(
        id=f"r{seed}",
        prompt=prompt(seed),
        max_tokens=1 + seed * 17 % 48,
        params=PARAMS[seed % len(PARAMS)],
        n=1 + seed % 3,
        seed=seed,
        eos_ids=frozenset({3}),
    )


def run(engine: Engine, arrivals: list[list[Request]]) -> dict[tuple[str, int], Answer]:
    """Adds ``arrivals[k]`` before step k and runs until all have ended."""
    answers: dict[tuple[str, int], Answer] = {}
    step = 0
    while step < len(arrivals) or engine.has_work:
        for new in arrivals[step] if step < len(arrivals) else ():
            engine.add(new)
            answers.update({(new.id, index): Answer() for index in range(new.n)})
        for delta in engine.step():
            answers[delta.request_id, delta.index].take(delta)
        engine.scheduler.check_integrity()
        step += 1
        assert step < 5000, "the schedule does not end"
    memory = engine.scheduler.memory
    assert memory.available == memory.total
    return answers


@cache
def alone(dtype: str, seed: int) -> tuple[Answer, ...]:
    """The answers of a request's sequences, each computed alone and whole, nothing shared."""
    whole = request(seed)
    return tuple(_only(dtype, whole, index) for index in range(whole.n))


def _only(dtype: str, whole: Request, index: int) -> Answer:
    """One of a request's sequences with its siblings gone before anything is computed."""
    engine, _ = make_engine(dtype, prefix_cache=False)
    engine.add(whole)
    for seq in engine.scheduler.sequences(whole.id):
        if seq.index != index:
            engine.scheduler.finish(seq, FinishReason.ABORT, 0.0)
    answer = Answer()
    while engine.has_work:
        for delta in engine.step():
            assert delta.index == index
            answer.take(delta)
    return answer


@pytest.mark.parametrize("dtype", FORMATS)
@settings(max_examples=25, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 39), min_size=1, max_size=10, unique=True),
    gaps=st.lists(st.integers(0, 4), min_size=10, max_size=10),
    block_size=st.sampled_from([8, 16, 32]),
    tokens=st.integers(224, 480),
    budget=st.sampled_from([1, 3, 17, 64, 300]),
    sequences=st.integers(1, 16),
    batching=st.sampled_from(["stall-free", "stall-free", "prefill-first", "static"]),
    admission=st.sampled_from(["watermark", "reserve"]),
    prefix_cache=st.booleans(),
)
def test_same_answer_alone_and_in_any_schedule(
    dtype: str,
    seeds: list[int],
    gaps: list[int],
    block_size: int,
    tokens: int,
    budget: int,
    sequences: int,
    batching: str,
    admission: str,
    prefix_cache: bool,
) -> None:
    engine, events = make_engine(
        dtype,
        blocks=-(-tokens // block_size),
        block_size=block_size,
        budget=budget,
        sequences=sequences,
        batching=batching,
        admission=admission,
        prefix_cache=prefix_cache,
    )
    arrivals: list[list[Request]] = []
    for seed, gap in zip(seeds, gaps, strict=False):
        arrivals.extend([[] for _ in range(gap)])
        arrivals.append([request(seed)])
    answers = run(engine, arrivals)
    for seed in seeds:
        for index, expected in enumerate(alone(dtype, seed)):
            assert answers[f"r{seed}", index] == expected
    preempted = sum(seen.kind is Kind.PREEMPTED for seen in events)
    found = sum(bool(seen.data.get("found")) for seen in events)
    note(f"{preempted} preemptions, {found} starts on shared blocks")
    target(float(preempted))


EACH_POLICY = [(kind, name) for kind in BUILT_IN for name in BUILT_IN[kind]]
TARGETS = (Targets(), Targets(ttft=0.01, tpot=0.01), Targets(ttft=60.0), Targets(deadline=1e9))


@pytest.mark.parametrize(("kind", "name"), EACH_POLICY)
def test_every_policy_gives_the_same_answers(kind: str, name: str) -> None:
    """Each with everything that a policy may look at; the others as they are by default."""
    chosen = {"order": "deadline", "preemption": "least-lost", kind: name}
    engine, events = make_engine("float32", blocks=28, block_size=8, budget=40, **chosen)
    crowd = [
        replace(
            request(seed),
            tenant=f"t{seed % 3}",
            priority=seed % 2,
            targets=TARGETS[seed % len(TARGETS)],
            category=f"c{seed % 2}",
        )
        for seed in range(12)
    ]
    answers = run(engine, [crowd[:6], [], crowd[6:]])
    for seed in range(12):
        assert tuple(answers[f"r{seed}", i] for i in range(1 + seed % 3)) == alone("float32", seed)
    if kind in ("order", "preemption"):
        assert any(event.kind is Kind.PREEMPTED for event in events)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_crowd_in_too_little_memory_gets_the_same_answers(dtype: str) -> None:
    """Directed: many sequences, few blocks, so that preemption is certain."""
    engine, events = make_engine(dtype, blocks=28, block_size=8, budget=40)
    answers = run(engine, [[request(seed) for seed in range(12)]])
    for seed in range(12):
        assert tuple(answers[f"r{seed}", i] for i in range(1 + seed % 3)) == alone(dtype, seed)
    assert any(event.kind is Kind.PREEMPTED for event in events)
    assert any(event.data.get("found") for event in events)

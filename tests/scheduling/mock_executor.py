"""A deterministic executor without a model, and the pieces to build a scheduler around it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.event import Event
from headrace.nouns.request import Request, Targets
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import Sequence, Wait
from headrace.nouns.step import Sampled, Step, StepResult
from headrace.nouns.step_cost import StepCost
from headrace.nouns.tenant import Tenants
from headrace.scheduling.limits import Limits
from headrace.scheduling.policy import (
    AdmissionPolicy,
    BatchingPolicy,
    OrderPolicy,
    PreemptionPolicy,
)
from headrace.scheduling.registry import create
from headrace.scheduling.scheduler import NO_TERMS, Policies, Scheduler

VOCAB = 1000
NO_TARGETS = Targets()


def next_token(tokens: list[int], index: int = 0) -> int:
    """A model of sorts: the next token depends on all tokens before and on the sibling's index."""
    value = len(tokens) + 7919 * index
    for token in tokens:
        value = (value * 31 + token + 7) % 1_000_003
    return value % VOCAB


@dataclass
class CacheModel:
    """Stands for the cache tensors: what each (block, slot) holds. Finds wrong block tables."""

    block_size: int
    slots: dict[tuple[int, int], int] = field(default_factory=dict)

    def copy(self, moves: tuple[tuple[int, int], ...]) -> None:
        """All at once, as the real cache does: sources are read before any write."""
        held = [
            (destination, slot, self.slots.get((source, slot)))
            for source, destination in moves
            for slot in range(self.block_size)
        ]
        for block, slot, token in held:
            if token is None:
                self.slots.pop((block, slot), None)
            else:
                self.slots[block, slot] = token

    def compute(self, seq: Sequence, start: int, end: int) -> None:
        """Writes positions [start, end), having read all before: each must hold its token."""
        for position in range(start):
            place = (seq.blocks[position // self.block_size], position % self.block_size)
            held = self.slots.get(place)
            assert held == seq.tokens[position], f"{seq.key} reads {held} at {position}"
        for position in range(start, end):
            place = (seq.blocks[position // self.block_size], position % self.block_size)
            self.slots[place] = seq.tokens[position]


class MockExecutor:
    """Computes steps on a ``CacheModel``; raises if a step reads state nobody computed.

    ``poisoned`` requests fail every step they are in, as a whole. ``computed`` counts tokens.
    """

    def __init__(self, block_size: int, depth: int = 1) -> None:
        self.depth = depth
        self.cache = CacheModel(block_size)
        self.computed = 0
        self.submitted = 0
        self.poisoned: set[str] = set()
        self.forgotten: list[Sequence] = []
        self.closed = False
        self._results: deque[StepResult] = deque()

    def submit(self, step: Step) -> None:
        assert len(self._results) < self.depth, "more steps in flight than the executor can hold"
        self.submitted += 1
        self.cache.copy(step.copies)
        sampled: list[Sampled | None] = []
        for piece in step.slices:
            seq = piece.sequence
            self.cache.compute(seq, piece.start, piece.end)
            self.computed += piece.length
            assert piece.samples == (piece.end == len(seq.tokens))
            token = next_token(seq.tokens, seq.index) if piece.samples else None
            sampled.append(None if token is None else self.sample(seq, token))
        bad = sorted({s.sequence.request.id for s in step.slices} & self.poisoned)
        error = f"poisoned by {bad}" if bad else None
        self._results.append(StepResult(step.id, () if bad else tuple(sampled), error=error))

    def sample(self, seq: Sequence, token: int) -> Sampled:
        return Sampled(token)

    def collect(self) -> StepResult:
        return self._results.popleft()

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence)

    def close(self) -> None:
        self.closed = True


def alone(seq: Sequence) -> list[int]:
    """The tokens that the sequence has if nobody else is there, as many as it has."""
    tokens = list(seq.request.prompt)
    while len(tokens) < len(seq.tokens):
        tokens.append(next_token(tokens, seq.index))
    return tokens


def cause(seq: Sequence) -> Wait | None:
    """What it waits for now."""
    return seq.wait


def make_request(
    id: str,
    prompt: list[int],
    max_tokens: int = 8,
    *,
    n: int = 1,
    arrival: float = 0.0,
    priority: int = 0,
    tenant: str = "default",
    eos: frozenset[int] = frozenset(),
    targets: Targets = NO_TARGETS,
    category: str = "",
) -> Request:
    return Request(
        id=id,
        prompt=tuple(prompt),
        max_tokens=max_tokens,
        params=SamplingParams(temperature=0.0),
        n=n,
        arrival=arrival,
        priority=priority,
        tenant=tenant,
        eos_ids=eos,
        targets=targets,
        category=category,
    )


def make_scheduler(
    *,
    blocks: int = 32,
    block_size: int = 4,
    budget: int = 16,
    limit: int = 64,
    sequences: int = 8,
    order: str | OrderPolicy = "fcfs",
    admission: str | AdmissionPolicy = "watermark",
    batching: str | BatchingPolicy = "stall-free",
    preemption: str | PreemptionPolicy = "recompute",
    prefix_cache: bool = True,
    events: list[Event] | None = None,
    tenants: Tenants = NO_TERMS,
    cost: StepCost | None = None,
) -> Scheduler:
    """Policies are names or objects."""

    def chosen(kind: str, policy: Any) -> Any:
        return create(kind, policy) if isinstance(policy, str) else policy

    policies = Policies(
        order=chosen("order", order),
        admission=chosen("admission", admission),
        batching=chosen("batching", batching),
        preemption=chosen("preemption", preemption),
    )
    memory = SequenceMemory(blocks, block_size, prefix_cache)
    sink = (lambda event: None) if events is None else events.append
    limits = Limits(budget, limit, sequences)
    return Scheduler(memory, policies, limits, sink, tenants=tenants, cost=cost)


def run_step(scheduler: Scheduler, executor: MockExecutor, now: float) -> Step | None:
    step = scheduler.plan(now)
    if step is not None:
        executor.submit(step)
        scheduler.commit(step, executor.collect(), now)
    return step


def run_all(scheduler: Scheduler, executor: MockExecutor, steps: int = 10_000) -> list[Step]:
    """Runs until nothing is left. Fails if that takes more than ``steps`` steps."""
    done: list[Step] = []
    while scheduler.has_work:
        step = run_step(scheduler, executor, float(len(done)))
        assert step is not None, "work is left but no step is planned"
        scheduler.check_integrity()
        done.append(step)
        assert len(done) <= steps, "the schedule does not end"
    return done

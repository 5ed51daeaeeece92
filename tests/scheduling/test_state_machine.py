"""Scheduler, pool and tree under arbitrary arrivals, aborts, shortages and pipelines."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from headrace.nouns.errors import ContextLengthExceeded
from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import FinishReason, Sequence
from headrace.nouns.step import Step
from tests.scheduling.mock_executor import MockExecutor, make_request, make_scheduler, next_token

PREFIXES = [[], [1] * 4, [1] * 8 + [2] * 5, [3] * 17]


class SchedulerMachine(RuleBasedStateMachine):
    """Drives the real scheduler with an executor that checks every read of the cache."""

    requests = Bundle("requests")

    @initialize(
        blocks=st.integers(6, 40),
        block_size=st.sampled_from([1, 2, 4, 8]),
        budget=st.integers(1, 40),
        sequences=st.integers(1, 10),
        order=st.sampled_from(["fcfs", "priority"]),
        admission=st.sampled_from(["reserve", "watermark"]),
        batching=st.sampled_from(["stall-free", "prefill-first", "static"]),
        prefix_cache=st.booleans(),
        depth=st.integers(1, 3),
    )
    def setup(self, **options: object) -> None:
        depth = int(str(options.pop("depth")))
        self.events: list[Event] = []
        self.scheduler = make_scheduler(limit=64, events=self.events, **options)  # type: ignore[arg-type]
        self.executor = MockExecutor(self.scheduler.memory.block_size, depth)
        self.reserved = options["admission"] == "reserve"
        self.flying: deque[Step] = deque()
        self.accepted: dict[str, list[Sequence]] = {}
        self.now = 0.0
        self.count = 0

    @rule(
        target=requests,
        prefix=st.sampled_from(PREFIXES),
        tail=st.lists(st.integers(0, 3), min_size=1, max_size=12),
        max_tokens=st.integers(1, 20),
        n=st.integers(1, 3),
        priority=st.integers(0, 2),
        tenant=st.sampled_from(["a", "b"]),
        eos=st.booleans(),
    )
    def arrive(
        self,
        prefix: list[int],
        tail: list[int],
        max_tokens: int,
        n: int,
        priority: int,
        tenant: str,
        eos: bool,
    ) -> str:
        self.count += 1
        request = make_request(
            f"r{self.count}",
            prefix + tail,
            max_tokens,
            n=n,
            arrival=self.now,
            priority=priority,
            tenant=tenant,
            eos=frozenset(range(0, 1000, 9)) if eos else frozenset(),
        )
        need = -(-(len(request.prompt) + max_tokens - 1) // self.scheduler.memory.block_size)
        try:
            self.accepted[request.id] = self.scheduler.add(request, self.now)
            assert need <= self.scheduler.memory.total
        except ContextLengthExceeded:
            assert need > self.scheduler.memory.total
        return request.id

    @rule(request_id=requests)
    def abort(self, request_id: str) -> None:
        self.scheduler.abort(request_id, self.now, "test")

    @precondition(lambda self: len(self.flying) < self.executor.depth)
    @rule()
    def plan(self) -> None:
        self.now += 1.0
        step = self.scheduler.plan(self.now)
        if step is None:
            assert self.flying or not self.scheduler.has_work, "nothing planned, work left"
            return
        scheduled = [piece.sequence for piece in step.slices]
        flying = [piece.sequence for other in self.flying for piece in other.slices]
        assert len(set(scheduled)) == len(scheduled)
        assert not set(scheduled) & set(flying), "a sequence is in two steps at once"
        assert step.tokens + step.padding <= self.scheduler.limits.step_tokens
        destinations = [destination for _, destination in step.copies]
        assert len(set(destinations)) == len(destinations)
        self.executor.submit(step)
        self.flying.append(step)

    @precondition(lambda self: self.flying)
    @rule()
    def commit(self) -> None:
        self.now += 1.0
        self.scheduler.commit(self.flying.popleft(), self.executor.collect(), self.now)

    @rule(steps=st.integers(1, 8))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            if len(self.flying) < self.executor.depth:
                self.plan()
            if self.flying:
                self.commit()

    @invariant()
    def intact(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()
            if self.reserved:
                assert not any(event.kind is Kind.PREEMPTED for event in self.events)

    def teardown(self) -> None:
        """Everything accepted ends, with the tokens it would have had alone; nothing leaks."""
        if not hasattr(self, "scheduler"):
            return
        bound = 10 + 40 * sum(s.max_len for group in self.accepted.values() for s in group)
        steps = 0
        while self.scheduler.has_work:
            self.run(1)
            steps += 1
            assert steps < bound, "the schedule does not end"
        for group in self.accepted.values():
            for seq in group:
                self._check_ended(seq)
        memory = self.scheduler.memory
        memory.check_integrity([])
        assert memory.available == memory.total
        memory.pool.clear_kept()
        assert len(memory.tree) == 0

    def _check_ended(self, seq: Sequence) -> None:
        assert seq.finished and not seq.blocks
        assert seq.finish_reason is not FinishReason.ERROR
        tokens = list(seq.request.prompt)
        while len(tokens) < len(seq.tokens):
            tokens.append(next_token(tokens))
        assert seq.tokens == tokens, "the schedule changed the output"
        if seq.finish_reason is FinishReason.LENGTH:
            assert seq.output_len == seq.request.max_tokens
        if seq.finish_reason is FinishReason.STOP:
            assert seq.tokens[-1] in seq.request.eos_ids
        assert all(seconds >= 0 for seconds in seq.waits.values())
        assert seq.wait is None


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

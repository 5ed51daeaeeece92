"""SequenceMemory under arbitrary starts, forks, growth and releases, against what blocks hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence

# What the state at a position depends on: tenant and all tokens up to there.
State = tuple[str, tuple[int, ...]]


class MemoryMachine(RuleBasedStateMachine):
    """Every position that a sequence reads holds the state of its own prefix."""

    @initialize(
        blocks=st.integers(1, 10),
        block_size=st.sampled_from([1, 2, 3, 4]),
        prefix_cache=st.sampled_from([True, True, False]),
    )
    def setup(self, blocks: int, block_size: int, prefix_cache: bool) -> None:
        self.memory = SequenceMemory(blocks, block_size, prefix_cache)
        self.slots: dict[tuple[int, int], State] = {}
        self.live: list[Sequence] = []

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9), tenant=st.sampled_from("ab"))
    def start(self, tokens: list[int], tenant: str) -> None:
        request = Request(id="r", prompt=tuple(tokens), max_tokens=99, tenant=tenant, n=9)
        seq = Sequence.of(request, 0)
        owner = self.memory.awaits(seq)
        assert owner is None or owner in self.live
        expected = self.memory.cost(seq, len(tokens))
        before = self.memory.available
        found = self.memory.adopt(seq)
        assert found < len(tokens)
        assert found % self.memory.block_size == 0
        assert before - self.memory.available + self.memory.missing(seq, len(tokens)) == expected
        self.live.append(seq)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from(self.live))
        if parent.computed >= parent.prompt_len:
            child = Sequence.of(parent.request, 1)
            before = self.memory.available
            assert self.memory.fork(parent, child) == parent.prompt_len - 1
            assert self.memory.available == before
            self.live.append(child)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), length=st.integers(1, 5), token=st.integers(0, 1))
    def grow(self, data: st.DataObject, length: int, token: int) -> None:
        seq = data.draw(st.sampled_from(self.live))
        if not seq.uncomputed:
            seq.tokens.append(token)
        upto = seq.computed + min(length, seq.uncomputed)
        missing, before = self.memory.missing(seq, upto), self.memory.available
        held = list(seq.blocks)
        copies = self.memory.grow(seq, upto)
        if copies is None:
            assert missing > before
            assert (seq.blocks, self.memory.available) == (held, before)
            return
        for source, destination in copies:
            for slot in range(self.memory.block_size):
                if (source, slot) in self.slots:
                    self.slots[destination, slot] = self.slots[source, slot]
        for position in range(seq.computed, upto):
            self.slots[self._place(seq, position)] = self._state(seq, position)
        seq.computed = upto
        self.memory.commit(seq)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), keep=st.sampled_from([True, True, False]))
    def release(self, data: st.DataObject, keep: bool) -> None:
        seq = data.draw(st.sampled_from(self.live))
        self.live.remove(seq)
        self.memory.release(seq, keep)
        assert not seq.blocks

    @invariant()
    def holds_what_it_should(self) -> None:
        if not hasattr(self, "memory"):
            return
        self.memory.check_integrity(self.live)
        for seq in self.live:
            for position in range(seq.computed):
                assert self.slots[self._place(seq, position)] == self._state(seq, position)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            for seq in self.live:
                self.memory.release(seq)
            self.memory.check_integrity([])
            assert self.memory.available == self.memory.total
            assert not self.memory.tree.pending()
            self.memory.pool.clear_kept()
            assert not len(self.memory.tree)

    def _place(self, seq: Sequence, position: int) -> tuple[int, int]:
        size = self.memory.block_size
        return seq.blocks[position // size], position % size

    @staticmethod
    def _state(seq: Sequence, position: int) -> State:
        return seq.request.tenant, tuple(seq.tokens[: position + 1])


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

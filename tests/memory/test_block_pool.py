"""BlockPool: three states of a block, and the order in which content is given up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.memory.block_pool import BlockPool


def pool_of(blocks: int) -> tuple[BlockPool, list[int]]:
    reused: list[int] = []
    return BlockPool(blocks, reused.append), reused


def taken(pool: BlockPool, count: int) -> list[int]:
    blocks = [pool.take() for _ in range(count)]
    assert None not in blocks
    return [block for block in blocks if block is not None]


def test_gives_each_block_once_then_none() -> None:
    pool, reused = pool_of(3)
    assert sorted(taken(pool, 3)) == [0, 1, 2]
    assert pool.take() is None
    assert (pool.available, pool.held, pool.kept) == (0, 3, 0)
    assert not reused


def test_kept_blocks_are_reused_least_recently_released_first() -> None:
    pool, reused = pool_of(3)
    blocks = taken(pool, 3)
    order = [blocks[1], blocks[2], blocks[0]]
    for block in order:
        pool.release(block, keep=True)
    assert (pool.available, pool.kept) == (3, 3)
    assert taken(pool, 3) == order
    assert reused == order


def test_a_kept_block_that_was_used_again_goes_to_the_end() -> None:
    pool, _ = pool_of(3)
    first, second, third = taken(pool, 3)
    for block in (first, second, third):
        pool.release(block, keep=True)
    pool.share(first)
    pool.release(first, keep=True)
    assert taken(pool, 3) == [second, third, first]


def test_free_blocks_are_taken_before_content_is_given_up() -> None:
    pool, reused = pool_of(3)
    first, second, third = taken(pool, 3)
    pool.release(first, keep=True)
    pool.release(second, keep=False)
    assert pool.take() == second
    assert not reused
    assert pool.take() == first
    assert reused == [first]
    assert pool.references(third) == 1


def test_a_shared_block_is_held_until_its_last_reference_goes() -> None:
    pool, reused = pool_of(1)
    (block,) = taken(pool, 1)
    pool.share(block)
    pool.release(block, keep=True)
    assert pool.take() is None
    assert pool.kept == 0
    pool.release(block, keep=True)
    assert pool.kept == 1
    pool.share(block)
    assert (pool.references(block), pool.kept) == (1, 0)
    assert not reused


def test_clear_kept_gives_up_all_content_and_nothing_held() -> None:
    pool, reused = pool_of(3)
    first, second, _ = taken(pool, 3)
    pool.release(first, keep=True)
    pool.release(second, keep=True)
    assert pool.clear_kept() == 2
    assert reused == [first, second]
    assert (pool.available, pool.kept, pool.held) == (2, 0, 1)
    assert pool.clear_kept() == 0
    pool.check_integrity()


def test_damage_is_found() -> None:
    pool, _ = pool_of(2)
    (block,) = taken(pool, 1)
    pool.release(block, keep=False)
    with pytest.raises(AssertionError, match="without a reference"):
        pool.release(block, keep=False)
    pool._free.append(block)
    with pytest.raises(AssertionError, match="twice"):
        pool.check_integrity()
    pool._free.remove(block)
    pool._references[block] = 1
    with pytest.raises(AssertionError, match="idle"):
        pool.check_integrity()


def test_a_pool_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block, not 0"):
        BlockPool(0, lambda block: None)


class PoolMachine(RuleBasedStateMachine):
    """The pool against lists that say the same in the slow way."""

    @initialize(blocks=st.integers(1, 6))
    def setup(self, blocks: int) -> None:
        self.reused: list[int] = []
        self.pool = BlockPool(blocks, self.reused.append)
        self.held: list[int] = []  # one entry per reference
        self.kept: list[int] = []  # in the order of release

    @rule()
    def take(self) -> None:
        idle = self.pool.num_blocks - len(set(self.held)) - len(self.kept)
        given_up = self.kept.pop(0) if not idle and self.kept else None
        before = len(self.reused)
        block = self.pool.take()
        if block is None:
            assert not idle
            assert given_up is None
            return
        assert block not in self.held
        assert self.reused[before:] == ([] if given_up is None else [given_up])
        assert given_up in (None, block)
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), keep=st.booleans())
    def release(self, data: st.DataObject, keep: bool) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.pool.release(block, keep)
        self.held.remove(block)
        if keep and block not in self.held:
            self.kept.append(block)

    @precondition(lambda self: self.held or self.kept)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.held + self.kept))
        self.pool.share(block)
        self.held.append(block)
        if block in self.kept:
            self.kept.remove(block)

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check_integrity()
            assert self.pool.held == len(set(self.held))
            assert self.pool.kept == len(self.kept)
            for block in range(self.pool.num_blocks):
                assert self.pool.references(block) == self.held.count(block)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.booleans()), max_size=40),
)
def test_blocks_taken_and_given_back_many_at_once_are_the_same_blocks(
    count: int, moves: list[tuple[int, bool, bool]]
) -> None:
    """What nobody asks for again may go as a run: the same blocks are reused in the same order."""
    singly, together = BlockPool(count, on_reuse=ignore), BlockPool(count, on_reuse=ignore)
    held: list[list[int]] = []
    for amount, keep, give_back in moves:
        if give_back and held:
            blocks = held.pop(amount % len(held))
            for block in reversed(blocks):
                singly.release(block, keep)
            together.release_own(list(blocks), keep)
        elif amount <= singly.available:
            blocks = together.take_many(amount)
            assert blocks == [singly.take() for _ in range(amount)]
            held.append(blocks)
        assert (together.available, together.kept) == (singly.available, singly.kept)
        together.check_integrity()
    assert together.clear_kept() == singly.clear_kept()
    assert together.take_many(together.available) == [
        singly.take() for _ in range(singly.available)
    ]


def test_what_has_more_holders_is_not_anybodys_own() -> None:
    pool = BlockPool(4, on_reuse=ignore)
    blocks = pool.take_many(2)
    pool.share(blocks[1])
    with pytest.raises(AssertionError, match="not its holder's own"):
        pool.release_own(blocks, keep=True)


def ignore(block: int) -> None:
    """Nobody shares content here."""

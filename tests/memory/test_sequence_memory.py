"""SequenceMemory: blocks shared by content, copied before two sequences would write to one."""

from __future__ import annotations

from headrace.memory.sequence_memory import SequenceMemory
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence

SIZE = 4


def sequence(tokens: list[int], *, tenant: str = "t", index: int = 0, n: int = 4) -> Sequence:
    request = Request(id="r", prompt=tuple(tokens), max_tokens=64, tenant=tenant, n=n)
    return Sequence.of(request, index)


def memory(blocks: int = 8, prefix_cache: bool = True) -> SequenceMemory:
    return SequenceMemory(blocks, SIZE, prefix_cache)


def compute(held: SequenceMemory, seq: Sequence, upto: int) -> list[tuple[int, int]]:
    """Grows and commits, as a step does; returns the copies."""
    copies = held.grow(seq, upto)
    assert copies is not None, "memory is short"
    seq.computed = upto
    held.commit(seq)
    return copies


def started(held: SequenceMemory, seq: Sequence, upto: int | None = None) -> Sequence:
    held.adopt(seq)
    compute(held, seq, len(seq.tokens) if upto is None else upto)
    return seq


def test_a_prefix_is_found_in_full_blocks_and_the_last_token_is_left() -> None:
    held = memory()
    first = started(held, sequence(list(range(8))))
    for length, found in [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8)]:
        other = sequence(list(range(length)))
        assert held.adopt(other) == found
        assert other.computed == found
        assert other.blocks == first.blocks[: found // SIZE]
        held.release(other)
    held.check_integrity([first])


def test_what_differs_in_one_token_is_not_shared() -> None:
    held = memory()
    started(held, sequence([1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert held.adopt(sequence([0, 2, 3, 4, 5, 6, 7, 8, 9])) == 0
    assert held.adopt(sequence([1, 2, 3, 4, 5, 6, 7, 0, 9])) == 4


def test_tenants_share_nothing() -> None:
    held = memory()
    mine = started(held, sequence(list(range(9)), tenant="a"))
    theirs = sequence(list(range(9)), tenant="b")
    assert held.awaits(theirs) is None
    assert held.adopt(theirs) == 0
    compute(held, theirs, 9)
    assert not set(mine.blocks) & set(theirs.blocks)
    assert len(held.tree) == 4


def test_without_a_prefix_cache_nothing_is_found_kept_or_awaited() -> None:
    held = memory(prefix_cache=False)
    first = started(held, sequence(list(range(9))))
    second = sequence(list(range(9)))
    assert held.awaits(second) is None
    assert held.adopt(second) == 0
    held.release(first)
    held.release(second)
    assert held.pool.kept == 0


def test_content_outlives_its_sequence_until_memory_is_wanted_leaves_first() -> None:
    held = memory(blocks=4)
    first = started(held, sequence(list(range(12))))
    blocks = list(first.blocks)
    held.release(first)
    assert held.available == 4
    assert held.pool.kept == 3
    stranger = started(held, sequence([9] * 8))  # takes the free block and the last leaf
    assert blocks[2] in stranger.blocks
    assert held.adopt(sequence(list(range(12)))) == 8


def test_output_is_shared_as_prompts_are() -> None:
    held = memory()
    first = started(held, sequence([1, 2, 3]))
    first.tokens += [4, 5]
    compute(held, first, 5)
    assert held.adopt(sequence([1, 2, 3, 4, 5])) == 4


def test_a_failing_grow_takes_nothing() -> None:
    held = memory(blocks=3)
    first = started(held, sequence(list(range(8))))
    second = sequence([9] * 9)
    held.adopt(second)
    assert held.missing(second, 9) == 3
    assert held.grow(second, 9) is None
    assert (second.blocks, held.available) == ([], 1)
    assert held.grow(second, 4) == []
    assert len(second.blocks) == 1
    held.check_integrity([first, second])


def test_a_failing_copy_takes_nothing_either() -> None:
    held = memory(blocks=2)
    parent = started(held, sequence([1, 2, 3]))
    child = sequence([1, 2, 3], index=1)
    held.fork(parent, child)
    stranger = started(held, sequence([9]))
    assert held.missing(child, 3) == 1
    assert held.grow(child, 3) is None
    assert child.blocks == parent.blocks
    held.check_integrity([parent, child, stranger])


def test_a_waiting_sequence_knows_who_computes_its_next_block() -> None:
    held = memory()
    owner, other = sequence(list(range(9))), sequence([*range(8), 99])
    assert held.awaits(other) is None
    held.adopt(owner)
    assert held.awaits(other) is owner
    assert held.awaits(owner) is None
    compute(held, owner, 4)
    assert held.awaits(other) is owner
    compute(held, owner, 8)
    assert held.awaits(other) is None
    assert held.adopt(other) == 8


def test_nobody_waits_for_what_it_cannot_use() -> None:
    held = memory()
    owner = sequence(list(range(9)))
    held.adopt(owner)
    assert held.awaits(sequence([0, 1, 2, 3])) is None  # its last token must be computed anyway
    assert held.awaits(sequence([5, 1, 2, 3, 4])) is None
    assert held.awaits(sequence([0, 1, 2, 3, 4])) is owner


def test_who_yields_takes_its_announcements_back() -> None:
    held = memory()
    owner, other = sequence(list(range(9))), sequence(list(range(9)))
    held.adopt(owner)
    compute(held, owner, 4)
    held.release(owner)
    assert held.awaits(other) is None
    assert not held.tree.pending()
    assert held.adopt(other) == 4
    third = sequence(list(range(9)))
    assert held.awaits(third) is other


def test_two_that_computed_the_same_keep_one_and_lose_nothing() -> None:
    held = memory()
    first, second = sequence(list(range(5))), sequence(list(range(5)))
    held.adopt(first)
    held.adopt(second)
    compute(held, first, 5)
    compute(held, second, 5)
    assert first.blocks[0] != second.blocks[0]
    assert len(held.tree) == 1
    held.check_integrity([first, second])
    held.release(second)
    assert held.pool.kept == 0
    held.release(first)
    assert held.pool.kept == 1


def test_blocks_are_published_once_they_are_full() -> None:
    held = memory()
    seq = sequence(list(range(9)))
    held.adopt(seq)
    for upto, published in [(3, 0), (4, 1), (7, 1), (9, 2)]:
        compute(held, seq, upto)
        assert len(held.tree) == published


def test_siblings_part_ways_inside_a_block() -> None:
    held = memory()
    parent = started(held, sequence([1, 2, 3, 4, 5, 6]))
    children = [sequence([1, 2, 3, 4, 5, 6], index=i) for i in (1, 2)]
    for child in children:
        assert held.fork(parent, child) == 5
        assert child.blocks == parent.blocks
    whole, tail = parent.blocks
    assert held.pool.references(tail) == 3
    first = compute(held, children[0], 6)
    second = compute(held, children[1], 6)
    assert [source for source, _ in first + second] == [tail, tail]
    assert compute(held, parent, 7) == []  # the last holder need not copy
    assert parent.blocks == [whole, tail]
    assert len({seq.blocks[1] for seq in (parent, *children)}) == 3
    assert {seq.blocks[0] for seq in (parent, *children)} == {whole}
    held.check_integrity([parent, *children])


def test_whoever_writes_first_copies() -> None:
    held = memory()
    parent = started(held, sequence([1, 2, 3]))
    child = sequence([1, 2, 3], index=1)
    held.fork(parent, child)
    tail = parent.blocks[0]
    assert held.missing(parent, 4) == 1
    assert compute(held, parent, 4) == [(tail, parent.blocks[0])]
    assert parent.blocks[0] != tail
    assert held.missing(child, 3) == 0
    assert compute(held, child, 3) == []


def test_a_fork_at_the_end_of_a_block_shares_whole_blocks_only() -> None:
    held = memory()
    parent = started(held, sequence([1, 2, 3, 4, 5]))
    child = sequence([1, 2, 3, 4, 5], index=1)
    assert held.fork(parent, child) == 4
    assert child.blocks == parent.blocks[:1]
    assert compute(held, child, 5) == []


def test_a_full_block_found_by_its_content_is_not_written_to_by_its_last_holder() -> None:
    """The parent fills and publishes the block that its child still shares, then ends."""
    held = memory()
    parent = started(held, sequence([1, 2, 3]))
    parent.tokens += [4, 5]
    compute(held, parent, 4)
    child = sequence([1, 2, 3], index=1)
    held.fork(parent, child)
    published = parent.blocks[0]
    held.release(parent)
    assert held.pool.references(published) == 1
    assert held.missing(child, 3) == 1
    child.tokens += [9, 9]
    assert compute(held, child, 4) == [(published, child.blocks[0])]
    held.check_integrity([child])
    assert held.adopt(sequence([1, 2, 3, 4, 0])) == 4
    assert held.adopt(sequence([1, 2, 3, 9, 0])) == 4


def test_cost_counts_what_becomes_unavailable() -> None:
    held = memory()
    first = started(held, sequence(list(range(8))))
    same = sequence([*range(8), 1])
    assert held.cost(same, 9) == 1
    assert held.cost(same, 17) == 3
    held.release(first)
    assert held.cost(same, 9) == 3  # kept blocks are no longer available once held
    before = held.available
    started(held, same)
    assert before - held.available == 3


def test_everything_comes_back() -> None:
    held = memory()
    sequences = [started(held, sequence([*range(8), i])) for i in range(3)]
    child = sequence(list(sequences[0].tokens), index=1)
    held.fork(sequences[0], child)
    for seq in [*sequences, child]:
        held.release(seq)
        assert (seq.blocks, seq.computed) == ([], 0)
    held.release(child)  # releasing nothing is harmless
    held.check_integrity([])
    assert held.available == held.total
    assert not held.tree.pending()


def test_what_an_error_leaves_behind_is_not_found_again() -> None:
    held = memory()
    healthy = started(held, sequence([1, 2, 3, 4]))
    failed = started(held, sequence([1, 2, 3, 4, 5, 6, 7, 8]))
    held.release(failed, keep=False)
    held.check_integrity([healthy])
    # what the healthy one holds stays shared, what only the failed one held is gone
    assert held.adopt(sequence([1, 2, 3, 4, 5, 6, 7, 8, 9])) == 4


def test_who_shares_what_is_known_before_and_after_a_start() -> None:
    held = memory(16)
    first = started(held, sequence([*range(8), 1, 2, 3, 4, 5]))
    again = sequence([*range(8), 9])
    assert held.shared(first) == 0
    assert held.held_prefix(again) == first.blocks[:2]
    started(held, again)
    assert held.shared(first) == held.shared(again) == 2
    child = sequence(list(first.tokens), index=1)
    held.fork(first, child)
    assert held.shared(first) == 3  # all but the prompt's last token
    held.release(again)
    held.release(child)
    assert held.shared(first) == 0
    held.release(first)
    assert held.held_prefix(again) == []
    started(held, again)
    assert held.shared(again) == 0

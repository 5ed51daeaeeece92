"""PrefixTree: content is found by its whole path, and by nobody else's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.memory.prefix_tree import PrefixTree, block_digest, root_digest

A = block_digest(root_digest("t"), [1, 2])
B = block_digest(A, [3, 4])


def test_a_digest_names_the_whole_path() -> None:
    assert block_digest(root_digest("t"), [3, 4]) != B
    assert block_digest(block_digest(root_digest("t"), [2, 1]), [3, 4]) != B
    assert block_digest(block_digest(root_digest("t"), (1, 2)), (3, 4)) == B


Blocks = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=4)


@given(
    left=st.tuples(st.sampled_from(["", "a", "b", "ab"]), Blocks),
    right=st.tuples(st.sampled_from(["", "a", "b", "ab"]), Blocks),
)
def test_digests_are_equal_exactly_where_tenant_and_prefix_are(
    left: tuple[str, list[list[int]]], right: tuple[str, list[list[int]]]
) -> None:
    def path(salt: str, blocks: list[list[int]]) -> bytes:
        digest = root_digest(salt)
        for tokens in blocks:
            digest = block_digest(digest, tokens)
        return digest

    assert (path(*left) == path(*right)) == (left == right)
    assert path(*left) != root_digest(right[0])


def test_large_token_ids_and_any_tenant_name_have_a_digest() -> None:
    assert block_digest(A, [2**31]) != block_digest(A, [2**40])
    names = ["", "\ud800", "\udfff", "x" * 10_000, "x" * 10_001, "é", "\0"]
    assert len({root_digest(name) for name in names}) == len(names)


def test_published_content_is_found_until_it_is_dropped() -> None:
    tree = PrefixTree()
    assert tree.publish(A, 7)
    assert (tree.block(A), tree.holds(7), len(tree)) == (7, True, 1)
    assert tree.block(B) is None
    tree.drop(7)
    assert (tree.block(A), tree.holds(7), len(tree)) == (None, False, 0)
    assert tree.publish(A, 8)
    tree.check_integrity()


def test_the_second_block_with_the_same_content_stays_private() -> None:
    tree = PrefixTree()
    tree.publish(A, 7)
    assert not tree.publish(A, 8)
    assert tree.block(A) == 7
    assert not tree.holds(8)
    tree.check_integrity()


def test_the_first_announcement_stands_until_it_is_kept_or_taken_back() -> None:
    tree = PrefixTree()
    tree.announce(A, "first")
    tree.announce(A, "second")
    assert tree.owner(A) == "first"
    tree.retract(A, "second")
    assert tree.owner(A) == "first"
    tree.retract(A, "first")
    assert tree.owner(A) is None
    tree.announce(A, "second")
    tree.publish(A, 7)
    assert tree.owner(A) is None
    assert not tree.pending()


def test_what_is_ready_is_not_announced() -> None:
    tree = PrefixTree()
    tree.publish(A, 7)
    tree.announce(A, "late")
    assert tree.owner(A) is None
    tree.check_integrity()


def test_retracting_after_another_has_announced_anew_changes_nothing() -> None:
    tree = PrefixTree()
    tree.announce(A, "first")
    tree.publish(A, 7)
    tree.drop(7)
    tree.announce(A, "second")
    tree.retract(A, "first")
    assert tree.owner(A) == "second"


def test_publishing_the_same_block_twice_is_found() -> None:
    tree = PrefixTree()
    tree.publish(A, 7)
    tree.publish(B, 7)
    with pytest.raises(AssertionError):
        tree.check_integrity()

"""BlockPool: numbers, reference counts and reuse order of the cache's blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable


class BlockPool:
    """Hands out block ids ``0 .. num_blocks - 1``; the executor owns the tensors behind them.

    A block is *held* (reference count above 0), *kept* (count 0, but its content may be shared
    again; reused least recently released first) or *free*. ``on_reuse`` is called with a kept
    block's id when its content is about to be given up.
    """

    def __init__(self, num_blocks: int, on_reuse: Callable[[int], None]) -> None:
        if num_blocks < 1:
            raise ValueError(f"a pool needs at least one block, not {num_blocks}")
        self.num_blocks = num_blocks
        self._on_reuse = on_reuse
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        # In the order of release. A plain dict is slow to take its first item from.
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that ``take`` can hand out now: free ones and kept ones."""
        return len(self._free) + len(self._kept)

    @property
    def held(self) -> int:
        return self.num_blocks - self.available

    @property
    def kept(self) -> int:
        return len(self._kept)

    def references(self, block: int) -> int:
        return self._references[block]

    def take(self) -> int | None:
        """A block with one reference and no content, or None when every block is held."""
        if self._free:
            block = self._free.pop()
        elif self._kept:
            block, _ = self._kept.popitem(last=False)
            self._on_reuse(block)
        else:
            return None
        self._references[block] = 1
        return block

    def take_many(self, count: int) -> list[int]:
        """As ``take``, so many times; so many have to be available."""
        if not count:
            return []
        free = self._free
        blocks = free[: -count - 1 : -1]
        del free[-count:]
        for _ in range(count - len(blocks)):
            block, _ = self._kept.popitem(last=False)
            self._on_reuse(block)
            blocks.append(block)
        references = self._references
        for block in blocks:
            references[block] = 1
        return blocks

    def share(self, block: int) -> None:
        """One more reference to a held or kept block."""
        if self._references[block] == 0:
            del self._kept[block]
        self._references[block] += 1

    def release(self, block: int, keep: bool) -> None:
        """One reference fewer; the last one leaves the block kept or free."""
        count = self._references[block]
        assert count > 0, f"block {block} released without a reference"
        self._references[block] = count - 1
        if count == 1:
            if keep:
                self._kept[block] = None
            else:
                self._free.append(block)

    def release_own(self, blocks: Iterable[int], keep: bool) -> None:
        """As ``release``, one after another; each of them has just one reference."""
        references = self._references
        for block in blocks:
            assert references[block] == 1, f"block {block} is not its holder's own"
            references[block] = 0
        if keep:
            self._kept.update(dict.fromkeys(blocks))
        else:
            self._free.extend(blocks)

    def clear_kept(self) -> int:
        """Gives up the content of every kept block; returns how many."""
        cleared = list(self._kept)
        for block in cleared:
            del self._kept[block]
            self._on_reuse(block)
            self._free.append(block)
        return len(cleared)

    def check_integrity(self) -> None:
        """Each block is in exactly one of the three states."""
        free, kept = set(self._free), set(self._kept)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & kept, "a block is both free and kept"
        for block, count in enumerate(self._references):
            assert count >= 0, f"block {block} has {count} references"
            idle = block in free or block in kept
            assert idle == (count == 0), f"block {block}: {count} references, idle: {idle}"

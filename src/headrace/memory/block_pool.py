"""BlockPool: numbers, reference counts and reuse order of the cache's blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


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
        # In the order of reuse; a plain dict is slow to take its first item from. A run of blocks
        # that nobody can ask for is one entry, under its first block; its last is reused first.
        self._kept: OrderedDict[int, list[int] | None] = OrderedDict()
        self._kept_count = 0

    @property
    def available(self) -> int:
        """Blocks that ``take`` can hand out now: free ones and kept ones."""
        return len(self._free) + self._kept_count

    @property
    def held(self) -> int:
        return self.num_blocks - self.available

    @property
    def kept(self) -> int:
        return self._kept_count

    def references(self, block: int) -> int:
        return self._references[block]

    def take(self) -> int | None:
        """A block with one reference and no content, or None when every block is held."""
        if self._free:
            block = self._free.pop()
        elif self._kept:
            block = self._reuse(1)[0]
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
        if len(blocks) < count:
            blocks += self._reuse(count - len(blocks))
        references = self._references
        for block in blocks:
            references[block] = 1
        return blocks

    def _reuse(self, count: int) -> list[int]:
        """Takes so many kept blocks."""
        self._kept_count -= count
        kept, blocks = self._kept, []
        while count:
            block, run = next(iter(kept.items()))
            if run is None:
                del kept[block]
                self._on_reuse(block)
                blocks.append(block)
                count -= 1
                continue
            taken = run[: -count - 1 : -1]
            del run[-count:]
            if not run:
                del kept[block]
            blocks += taken
            count -= len(taken)
        return blocks

    def share(self, block: int) -> None:
        """One more reference to a held or kept block."""
        if self._references[block] == 0:
            del self._kept[block]
            self._kept_count -= 1
        self._references[block] += 1

    def release(self, block: int, keep: bool) -> None:
        """One reference fewer; the last one leaves the block kept or free."""
        count = self._references[block]
        assert count > 0, f"block {block} released without a reference"
        self._references[block] = count - 1
        if count == 1:
            if keep:
                self._kept[block] = None
                self._kept_count += 1
            else:
                self._free.append(block)

    def release_own(self, blocks: list[int], keep: bool) -> None:
        """As ``release``, from the last to the first; each of them has just one reference.

        Content that is kept so, nobody will ask for: ``on_reuse`` does not hear of it either.
        """
        references = self._references
        for block in blocks:
            assert references[block] == 1, f"block {block} is not its holder's own"
            references[block] = 0
        if not keep:
            self._free.extend(reversed(blocks))
        elif blocks:
            self._kept[blocks[0]] = blocks
            self._kept_count += len(blocks)

    def clear_kept(self) -> int:
        """Gives up the content of every kept block; returns how many."""
        cleared = self._reuse(self._kept_count)
        self._free += cleared
        return len(cleared)

    def check_integrity(self) -> None:
        """Each block is in exactly one of the three states."""
        free = set(self._free)
        kept = {b for block, run in self._kept.items() for b in (run or (block,))}
        assert len(kept) == self._kept_count, "a block is kept twice, or miscounted"
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & kept, "a block is both free and kept"
        for block, count in enumerate(self._references):
            assert count >= 0, f"block {block} has {count} references"
            idle = block in free or block in kept
            assert idle == (count == 0), f"block {block}: {count} references, idle: {idle}"

"""SequenceMemory: the blocks of every sequence, shared by content."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from headrace.memory.block_pool import BlockPool
from headrace.memory.prefix_tree import Digest, PrefixTree, block_digest, root_digest
from headrace.nouns.sequence import Sequence

Copy = tuple[int, int]
EVERYBODYS = 1 << 60
"""As the limit of a chain: any of its blocks may be others' content, too."""


@dataclass(slots=True)
class _Chain:
    """A sequence's digests, one per full block; the first ``published`` are settled.

    Beyond the first ``limit`` nobody can ask for one, but the sequence itself if it yields and
    returns; those are published when it yields.
    """

    root: Digest
    limit: int
    digests: list[Digest] = field(default_factory=list)
    published: int = 0
    announced: list[Digest] = field(default_factory=list)


class SequenceMemory:
    """Gives sequences their blocks and takes them back.

    Full blocks are shared by content among the sequences of one tenant; a block that two
    sequences would write to is copied first (``grow`` returns the copies to make). With
    ``prefix_cache`` off only forked siblings share. What is known to be nobody else's content
    (``Request.common``) is not looked for, and kept all the same.
    """

    def __init__(self, num_blocks: int, block_size: int, prefix_cache: bool = True) -> None:
        self.block_size = block_size
        self.prefix_cache = prefix_cache
        self.tree = PrefixTree()
        self.pool = BlockPool(num_blocks, on_reuse=self.tree.drop)
        self._chains: dict[Sequence, _Chain] = {}

    @property
    def total(self) -> int:
        return self.pool.num_blocks

    @property
    def available(self) -> int:
        return self.pool.available

    def blocks_for(self, tokens: int) -> int:
        """Blocks that the state of so many tokens fills."""
        return -(-tokens // self.block_size)

    def missing(self, seq: Sequence, upto: int) -> int:
        """Blocks to be taken so that ``seq`` can write its tokens up to ``upto``."""
        count = self.blocks_for(upto) - len(seq.blocks)
        return max(0, count) + (1 if self._shared_tail(seq) is not None else 0)

    def cost(self, seq: Sequence, upto: int) -> int:
        """Available blocks that a waiting ``seq`` would use up by ``upto`` if it started now.

        Blocks of its prefix that others hold cost nothing; kept ones do, since holding them
        makes them unavailable.
        """
        shared = sum(1 for block in self._ready_prefix(seq) if self.pool.references(block))
        return self.blocks_for(upto) - shared

    def shared(self, seq: Sequence) -> int:
        """Leading blocks of a started ``seq`` that others hold, too; the rest are its own."""
        references = self.pool.references
        return bisect_left(seq.blocks, True, key=lambda block: references(block) == 1)

    def held_prefix(self, seq: Sequence) -> list[int]:
        """The blocks of a waiting ``seq``'s prefix that others hold and that it would share."""
        return [block for block in self._ready_prefix(seq) if self.pool.references(block)]

    def found(self, tokens: list[int] | tuple[int, ...], tenant: str) -> int:
        """How many tokens at the beginning of a prompt have their state here."""
        count, digest = 0, root_digest(tenant)
        if not self.prefix_cache:
            return 0
        for start in range(0, len(tokens) - self.block_size, self.block_size):
            digest = block_digest(digest, tokens[start : start + self.block_size])
            if self.tree.block(digest) is None:
                break
            count += self.block_size
        return count

    def awaits(self, seq: Sequence) -> Sequence | None:
        """The running sequence that is computing the next block of ``seq``'s prefix, if any."""
        if not self.prefix_cache or self._is_new(seq):
            return None
        digests = self._prefix_digests(seq)
        for digest in digests:
            if self.tree.block(digest) is None:
                owner = self.tree.owner(digest)
                return owner if isinstance(owner, Sequence) and owner is not seq else None
        return None

    def adopt(self, seq: Sequence) -> int:
        """Starts a sequence: takes the ready part of its prefix, announces the rest.

        Sets ``blocks`` and ``computed``; returns the number of tokens found. At least the last
        known token is left to compute, since its logits are wanted.
        """
        assert not seq.blocks and seq.computed == 0
        blocks = self._ready_prefix(seq)
        for block in blocks:
            self.pool.share(block)
        seq.blocks.extend(blocks)
        seq.computed = len(blocks) * self.block_size
        chain = self._chain(seq)
        chain.published = len(blocks)
        if self.prefix_cache and chain.limit:
            known = min(len(seq.tokens), chain.limit * self.block_size)
            for digest in self._digests(seq, known)[len(blocks) :]:
                if self.tree.owner(digest) is None and self.tree.block(digest) is None:
                    self.tree.announce(digest, seq)
                    chain.announced.append(digest)
        return seq.computed

    def fork(self, parent: Sequence, child: Sequence) -> int:
        """Starts ``child`` on its parent's blocks, all but the prompt's last token computed."""
        assert not child.blocks and child.computed == 0
        computed = child.prompt_len - 1
        assert parent.computed >= computed
        for block in parent.blocks[: self.blocks_for(computed)]:
            self.pool.share(block)
            child.blocks.append(block)
        child.computed = computed
        self._chain(child).published = computed // self.block_size
        return computed

    def grow(self, seq: Sequence, upto: int) -> list[Copy] | None:
        """Makes the positions ``[computed, upto)`` writable; None if blocks are lacking.

        Returns the (source, destination) copies that have to be made first. Takes nothing when
        it fails.
        """
        tail = self._shared_tail(seq)
        count = self.blocks_for(upto) - len(seq.blocks)
        if count <= 0 and tail is None:
            return []
        if max(0, count) + (tail is not None) > self.pool.available:
            return None
        copies: list[Copy] = []
        if tail is not None:
            source, private = seq.blocks[tail], self._take()
            seq.blocks[tail] = private
            copies.append((source, private))
            self.pool.release(source, self.tree.holds(source))
        if count > 0:
            seq.blocks += self.pool.take_many(count)
        return copies

    def commit(self, seq: Sequence) -> None:
        """Shares the blocks that ``seq.computed`` has filled since the last commit."""
        if not self.prefix_cache or seq.request.common == 0:
            return
        chain, full = self._chain(seq), seq.computed // self.block_size
        if full > chain.published:
            self._publish(seq, chain, min(full, chain.limit))

    def release(self, seq: Sequence, keep: bool = True) -> None:
        """Takes back everything; shared content is kept for later as long as memory lasts.

        With ``keep`` off, what nobody else holds is given up: a sequence that ended in an error
        may have left numbers in its blocks that would spoil whoever finds them.
        """
        chain = self._chains.get(seq)
        blocks = seq.blocks
        if chain is not None:
            for digest in chain.announced:
                self.tree.retract(digest, seq)
            if chain.limit < EVERYBODYS:
                blocks = self._release_own(seq, chain, keep)
            del self._chains[seq]
        # Last block first: reuse then takes leaves before the prefixes they stand on.
        for block in reversed(blocks):
            if not keep and self.tree.holds(block) and self.pool.references(block) == 1:
                self.tree.drop(block)
            self.pool.release(block, self.tree.holds(block))
        seq.blocks.clear()
        seq.computed = 0

    def check_integrity(self, sequences: list[Sequence]) -> None:
        """Reference counts are exactly the blocks that the given (started) sequences hold."""
        self.pool.check_integrity()
        self.tree.check_integrity()
        counts: dict[int, int] = {}
        for seq in sequences:
            assert len(seq.blocks) >= self.blocks_for(seq.computed), "state without a block"
            for block in seq.blocks:
                counts[block] = counts.get(block, 0) + 1
        for block in range(self.total):
            held = self.pool.references(block)
            assert held == counts.get(block, 0), f"block {block}: {held} references, want {counts}"
        started = set(sequences)
        for seq, chain in self._chains.items():
            assert seq in started or not chain.announced, "an announcement outlives its owner"
        for digest, owner in self.tree.pending():
            assert isinstance(owner, Sequence), "only sequences announce"
            assert digest in self._chains[owner].announced, "nobody will retract an announcement"

    def _take(self) -> int:
        block = self.pool.take()
        assert block is not None, "availability was checked"
        return block

    def _shared_tail(self, seq: Sequence) -> int | None:
        """Index of the block that the next token goes to, if writing there would hurt others.

        They hold it too, or it is full under a sibling's digest and found by its content.
        """
        index = seq.computed // self.block_size
        if index == len(seq.blocks):
            return None
        block = seq.blocks[index]
        return index if self.pool.references(block) > 1 or self.tree.holds(block) else None

    @staticmethod
    def _is_new(seq: Sequence) -> bool:
        """Whether nothing of it can have been computed before."""
        return seq.request.common == 0 and not seq.preemptions

    def _chain(self, seq: Sequence) -> _Chain:
        chain = self._chains.get(seq)
        if chain is None:
            common = seq.request.common
            limit = EVERYBODYS if common is None else common // self.block_size
            chain = self._chains[seq] = _Chain(root_digest(seq.request.tenant), limit)
        return chain

    def _publish(self, seq: Sequence, chain: _Chain, full: int) -> None:
        """Settles the first ``full`` blocks."""
        if full <= chain.published:
            return
        digests = self._digests(seq, full * self.block_size)
        for i in range(chain.published, full):
            self.tree.publish(digests[i], seq.blocks[i])
        chain.published = full

    def _release_own(self, seq: Sequence, chain: _Chain, keep: bool) -> list[int]:
        """Takes back what only ``seq`` can ever have used; the blocks that are left.

        One that ends never comes back for it, but it is kept as if: others' content is given up
        no sooner and no later than if it had been published.
        """
        if not self.prefix_cache:
            self.pool.release_own(seq.blocks, keep=False)
            return []
        full = seq.computed // self.block_size
        if not seq.finished:
            self._publish(seq, chain, full)
            return seq.blocks
        first = min(chain.published, full)
        self.pool.release_own(seq.blocks[full:], keep=False)
        self.pool.release_own(seq.blocks[first:full], keep)
        return seq.blocks[:first]

    def _digests(self, seq: Sequence, tokens: int) -> list[Digest]:
        """Digests of the full blocks among the first ``tokens`` tokens."""
        chain, size = self._chain(seq), self.block_size
        parent = chain.digests[-1] if chain.digests else chain.root
        for i in range(len(chain.digests), tokens // size):
            parent = block_digest(parent, seq.tokens[i * size : (i + 1) * size])
            chain.digests.append(parent)
        return chain.digests[: tokens // size]

    def _prefix_digests(self, seq: Sequence) -> list[Digest]:
        """Digests that a start could use: full blocks before the last known token."""
        known = len(seq.tokens) - 1
        if not seq.preemptions:
            known = min(known, self._chain(seq).limit * self.block_size)
        return self._digests(seq, known)

    def _ready_prefix(self, seq: Sequence) -> list[int]:
        blocks: list[int] = []
        if self.prefix_cache and not self._is_new(seq):
            for digest in self._prefix_digests(seq):
                block = self.tree.block(digest)
                if block is None:
                    break
                blocks.append(block)
        return blocks

"""PrefixTree: which blocks hold which prefixes, and which are being computed."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Hashable, ItemsView, Sequence
from functools import lru_cache

Digest = bytes


@lru_cache(maxsize=1024)
def root_digest(salt: str) -> Digest:
    """The digest every prefix of one tenant starts from; other tenants never match it."""
    name = salt.encode(errors="surrogatepass")  # any string names a tenant, valid Unicode or not
    return hashlib.blake2b(name, digest_size=16, person=b"headrace-root").digest()


def block_digest(parent: Digest, tokens: Sequence[int]) -> Digest:
    """Digest of a full block's tokens after the prefix ``parent`` (128-bit BLAKE2b chain)."""
    return hashlib.blake2b(array("q", tokens).tobytes(), digest_size=16, key=parent).digest()


class PrefixTree:
    """A radix tree with one block per edge, addressed by the digest of the path from the root.

    A digest determines its whole path, so no links are stored: walking down is looking up one
    digest after another. A node is *ready* (its block holds the state) or *pending* (an owner
    announced that it is computing it). After RadixAttention (SGLang, arXiv:2312.07104,
    section 3), with digests in place of token edges.
    """

    def __init__(self) -> None:
        self._ready: dict[Digest, int] = {}
        self._of_block: dict[int, Digest] = {}
        self._pending: dict[Digest, Hashable] = {}

    def __len__(self) -> int:
        return len(self._ready)

    def block(self, digest: Digest) -> int | None:
        """The block that holds this prefix's last edge, if ready."""
        return self._ready.get(digest)

    def owner(self, digest: Digest) -> Hashable | None:
        """Who is computing it, if anybody is."""
        return self._pending.get(digest)

    def pending(self) -> ItemsView[Digest, Hashable]:
        """What is being computed, and by whom."""
        return self._pending.items()

    def holds(self, block: int) -> bool:
        return block in self._of_block

    def announce(self, digest: Digest, owner: Hashable) -> None:
        """``owner`` is about to compute it; the first announcement stands."""
        if digest not in self._ready:
            self._pending.setdefault(digest, owner)

    def retract(self, digest: Digest, owner: Hashable) -> None:
        """``owner`` will not compute it after all."""
        if self._pending.get(digest) == owner:
            del self._pending[digest]

    def publish(self, digest: Digest, block: int) -> bool:
        """``block`` now holds it. False if another block does already: keep this one private."""
        self._pending.pop(digest, None)
        if digest in self._ready:
            return False
        self._ready[digest] = block
        self._of_block[block] = digest
        return True

    def drop(self, block: int) -> None:
        """The block's content is given up."""
        del self._ready[self._of_block.pop(block)]

    def check_integrity(self) -> None:
        """Blocks and digests agree; nothing is ready and pending at once."""
        assert len(self._ready) == len(self._of_block)
        for digest, block in self._ready.items():
            assert self._of_block[block] == digest
        assert not self._pending.keys() & self._ready.keys(), "ready and pending at once"

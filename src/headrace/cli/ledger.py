"""Ledger: which lines of a batch are answered or taken, in 16 bytes a slot."""

from __future__ import annotations

import hashlib
from array import array
from enum import Enum

_TAKEN = 1  # lowest bit of a line's digest: seen in this run's input
_START = 1 << 10


class Claim(Enum):
    """What the ledger says of a line of the input."""

    NEW = "new"
    ANSWERED = "answered"
    DUPLICATE = "duplicate"  # the id was on an earlier line of this input
    CHANGED = "changed"  # the id was answered, for a line with other content


def digest(data: bytes) -> int:
    """64 bits of BLAKE2b with the lowest one cleared, never 0."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") & ~_TAKEN or 2


class Ledger:
    """Open addressing over two arrays of 64-bit words, at most half full: id to line.

    A million ids take 32 MiB. Two ids are mistaken for one another with probability
    5.4e-8 in a million; that line would be reported as a duplicate, never dropped in silence.
    """

    def __init__(self) -> None:
        self._ids = array("Q", bytes(8 * _START))
        self._lines = array("Q", bytes(8 * _START))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def answered(self, custom_id: str, line: int) -> bool:
        """Notes an answer found in the output. False if the id has one already."""
        key = digest(custom_id.encode("utf-8", "surrogatepass"))
        slot = self._slot(key)
        if self._ids[slot]:
            return False
        self._put(slot, key, line)
        return True

    def claim(self, custom_id: str, line: int) -> Claim:
        """Takes a line of the input; ``line`` is the digest of its content."""
        key = digest(custom_id.encode("utf-8", "surrogatepass"))
        slot = self._slot(key)
        if not self._ids[slot]:
            self._put(slot, key, line | _TAKEN)
            return Claim.NEW
        known = self._lines[slot]
        if known & _TAKEN:
            return Claim.DUPLICATE
        if known != line:
            return Claim.CHANGED
        self._lines[slot] = known | _TAKEN
        return Claim.ANSWERED

    def _slot(self, key: int) -> int:
        mask = len(self._ids) - 1
        slot = (key >> 1) & mask
        while self._ids[slot] not in (0, key):
            slot = (slot + 1) & mask
        return slot

    def _put(self, slot: int, key: int, line: int) -> None:
        self._ids[slot], self._lines[slot] = key, line
        self._count += 1
        if 2 * self._count > len(self._ids):
            self._grow()

    def _grow(self) -> None:
        old = zip(self._ids, self._lines, strict=True)
        size = 2 * len(self._ids)
        self._ids, self._lines = array("Q", bytes(8 * size)), array("Q", bytes(8 * size))
        for key, line in old:
            if key:
                slot = self._slot(key)
                self._ids[slot], self._lines[slot] = key, line

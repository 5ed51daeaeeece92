"""The byte-level alphabet: how byte-pair vocabularies write arbitrary bytes as characters."""

from __future__ import annotations

from functools import cache


@cache
def byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for (256 entries).

    Printable Latin-1 stands for itself, every other byte for a character from U+0100 on, in order
    of the bytes (Radford et al. 2019, the GPT-2 encoder).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    rest = sorted(set(range(256)) - set(printable))
    return table | {chr(0x100 + i): byte for i, byte in enumerate(rest)}


def piece_bytes(piece: str) -> bytes:
    """The bytes of a byte-level token; one with foreign characters is taken literally."""
    table = byte_of_character()
    try:
        return bytes(table[character] for character in piece)
    except KeyError:
        return piece.encode("utf-8", errors="replace")

"""Tokenizer: text to token ids and back, whatever file the vocabulary came from."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headrace.models.byte_level import piece_bytes
from headrace.nouns.errors import InvalidRequest

if TYPE_CHECKING:
    import tokenizers

Alphabet = Literal["byte-level", "sentencepiece"]

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONG_TEXT = 1024  # characters from which on encoding lets other threads run


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What each token id stands for.

    ``pieces[id]`` is the token as the vocabulary writes it, None for an id without a token.
    ``special`` ids steer the model and are no text; ``literal`` ones are text written as it is,
    outside the alphabet. ``prefix_space`` says that encoding puts a space before a text, which
    decoding takes off again.
    """

    pieces: Sequence[str | None]
    alphabet: Alphabet
    special: frozenset[int]
    literal: frozenset[int]
    prefix_space: bool = False
    bos_id: int | None = None
    eos_ids: frozenset[int] = frozenset()

    def bytes_of(self, token: int) -> bytes:
        """The bytes that ``token`` adds to a text; none for special and unknown tokens."""
        piece = self.pieces[token] if 0 <= token < len(self.pieces) else None
        if piece is None or token in self.special:
            return b""
        if self.alphabet == "byte-level":
            return piece.encode("utf-8") if token in self.literal else piece_bytes(piece)
        match = _BYTE_PIECE.fullmatch(piece)
        if match:
            return bytes([int(match[1], 16)])
        return piece.replace("\u2581", " ").encode("utf-8", errors="replace")


class Tokenizer:
    """Encodes and decodes text. Safe to use from several threads.

    For a byte-level vocabulary without a normaliser, joining ``token_bytes`` over
    ``encode(text, add_special=False)`` gives the text's UTF-8 again. ``kind`` describes the
    tokenizer in a few words.
    """

    def __init__(self, backend: tokenizers.Tokenizer, vocabulary: Vocabulary, kind: str) -> None:
        self._backend = backend
        self._literal_backend: tokenizers.Tokenizer | None = None
        self._lock = threading.Lock()
        self._vocabulary = vocabulary
        self._bytes: list[bytes | None] = [None] * len(vocabulary.pieces)
        self.kind = kind

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id; the model's own vocabulary may be padded further."""
        return len(self._bytes)

    @property
    def bos_id(self) -> int | None:
        return self._vocabulary.bos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._vocabulary.eos_ids

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``.

        ``add_special`` adds the tokens that the model wants around a text (often a
        begin-of-sequence token, often none). ``parse_special`` False takes the names of special
        tokens in ``text`` as ordinary characters. Raises InvalidRequest for a text that has no
        UTF-8 form (a lone surrogate).
        """
        backend = self._backend if parse_special else self._without_special()
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"the text has a lone surrogate at character {error.start}, which is no Unicode"
                " character; remove it"
            ) from None
        if len(text) < _LONG_TEXT:
            return backend.encode(text, add_special_tokens=add_special).ids
        # encode holds the interpreter's lock: a long text would stop everybody else's requests.
        return backend.encode_batch_fast([text], add_special_tokens=add_special)[0].ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD."""
        parts = []
        for token in ids:
            if self.is_special(token):
                if not skip_special:
                    parts.append(self.special_text(token).encode("utf-8", errors="replace"))
            else:
                parts.append(self.token_bytes(token))
        joined = b"".join(parts)
        if self._vocabulary.prefix_space:
            joined = joined.removeprefix(b" ")
        return joined.decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The exact bytes that ``token`` adds to a text.

        None for special tokens (see special_text) and for ids without a token, which models with
        a padded vocabulary can produce.
        """
        if not 0 <= token < len(self._bytes):
            return b""
        known = self._bytes[token]
        if known is None:
            known = self._bytes[token] = self._vocabulary.bytes_of(token)
        return known

    def is_special(self, token: int) -> bool:
        return token in self._vocabulary.special

    def special_text(self, token: int) -> str:
        """The name of a special token such as ``<|im_end|>``; "" for any other."""
        return (self._vocabulary.pieces[token] or "") if self.is_special(token) else ""

    def token_id(self, piece: str) -> int | None:
        """The id of a token by the name that the vocabulary gives it."""
        return self._backend.token_to_id(piece)

    def _without_special(self) -> tokenizers.Tokenizer:
        """A copy that does not look for special tokens, made when first asked for."""
        with self._lock:
            if self._literal_backend is None:
                copy = type(self._backend).from_str(self._backend.to_str())
                copy.encode_special_tokens = True
                self._literal_backend = copy
            return self._literal_backend

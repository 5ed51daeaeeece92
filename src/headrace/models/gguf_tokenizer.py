"""A Tokenizer from a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.models.fields import Fields
from headrace.models.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from headrace.models.tokenizer import Tokenizer, Vocabulary
from headrace.nouns.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)  # tokenizer.ggml.token_type

# Control tokens that end a turn or a text, though files name only one of them as the end.
_END_PIECES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def gguf_tokenizer(metadata: Mapping[str, object], where: str) -> Tokenizer:
    """Build the tokenizer that ``metadata`` describes; ``where`` names the file in errors.

    Raises ModelError when its kind is not supported or its lists do not fit together.
    """
    fields = Fields(metadata, where)
    kind = fields.text(_PREFIX + "model")
    if kind not in ("gpt2", "llama"):
        raise ModelError(
            f"{where}: tokenizer {kind!r} is not supported; supported are gpt2 (byte-level byte"
            " pairs) and llama (sentencepiece)"
        )
    pieces = fields.texts(_PREFIX + "tokens")
    types = _types(fields, len(pieces))
    if kind == "gpt2":
        name = fields.text(_PREFIX + "pre", "none")
        pre = PRE_TOKENIZERS.get(name)
        if pre is None:
            raise ModelError(
                f"{where}: pre-tokenizer {name!r} is not supported; supported are"
                f" {', '.join(sorted(PRE_TOKENIZERS))}. Other ways to cut text would give other"
                " tokens than the model was trained on"
            )
        backend = _byte_level(fields, pieces, pre)
        described, add_bos, prefix_space = f"byte-level BPE ({name})", pre.add_bos, False
    else:
        prefix_space = fields.flag(_PREFIX + "add_space_prefix", True)
        backend = _sentencepiece(fields, pieces, types, prefix_space)
        described, add_bos = "sentencepiece BPE (llama)", True
    _add_tokens(backend, pieces, types)
    bos_id = _token(fields, "bos_token_id", len(pieces))
    eos_id = _token(fields, "eos_token_id", len(pieces))
    add_bos = fields.flag(_PREFIX + "add_bos_token", add_bos)
    add_eos = fields.flag(_PREFIX + "add_eos_token", False)
    _surround(backend, bos_id if add_bos else None, eos_id if add_eos else None)
    vocabulary = Vocabulary(
        pieces=pieces,
        alphabet="byte-level" if kind == "gpt2" else "sentencepiece",
        special=frozenset(i for i, t in enumerate(types) if t in (_UNKNOWN, _CONTROL, _UNUSED)),
        literal=frozenset(i for i, t in enumerate(types) if t == _USER),
        prefix_space=prefix_space,
        bos_id=bos_id,
        eos_ids=_end_ids(fields, pieces, types),
    )
    return Tokenizer(backend, vocabulary, described)


def _types(fields: Fields, count: int) -> Sequence[int]:
    if _PREFIX + "token_type" not in fields:
        return [_NORMAL] * count
    types = fields.integers(_PREFIX + "token_type")
    if len(types) != count:
        raise ModelError(
            f"{fields.where}: {len(types)} token types for {count} tokens; the file is damaged"
        )
    return types


def _byte_level(fields: Fields, pieces: list[str], pre: PreTokenizer) -> tokenizers.Tokenizer:
    merges = []
    for merge in fields.texts(_PREFIX + "merges"):
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    backend = _build(fields, pieces, merges, ignore_merges=pre.ignore_merges)
    pre.apply(backend)
    return backend


def _sentencepiece(
    fields: Fields, pieces: list[str], types: Sequence[int], prefix_space: bool
) -> tokenizers.Tokenizer:
    """Byte pairs merged in the order of the scores of what they form (Kudo & Richardson 2018)."""
    from tokenizers import normalizers

    for key in ("precompiled_charsmap", "remove_extra_whitespaces"):
        if fields.values.get(_PREFIX + key):
            raise ModelError(f"{fields.where}: {_PREFIX}{key} is set, which is not supported")
    scores = fields.numbers(_PREFIX + "scores")
    if len(scores) != len(pieces):
        raise ModelError(
            f"{fields.where}: {len(scores)} scores for {len(pieces)} tokens; the file is damaged"
        )
    unknown = next((i for i, t in enumerate(types) if t == _UNKNOWN), None)
    backend = _build(
        fields,
        pieces,
        _merges_by_score(pieces, types, scores),
        unk_token=None if unknown is None else pieces[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    steps: list[normalizers.Normalizer] = [normalizers.Prepend("\u2581")] if prefix_space else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    return backend


def _merges_by_score(
    pieces: list[str], types: Sequence[int], scores: list[float]
) -> list[tuple[str, str]]:
    """Every way to form a piece from two others, best-scored piece first, longest left part next.

    Only ordinary pieces take part: sentencepiece never forms a control or byte piece from text.
    """
    ids = {p: i for i, p in enumerate(pieces) if types[i] in (_NORMAL, _UNUSED)}
    found = []
    for piece, i in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-scores[i], -cut, i, left, right))
    found.sort(key=lambda entry: entry[:3])
    return [(left, right) for _, _, _, left, right in found]


def _build(
    fields: Fields, pieces: list[str], merges: list[tuple[str, str]], **options: object
) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import models

    vocab: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        vocab.setdefault(piece, i)
    try:
        return tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    # The library has no exception of its own for a merge that its vocabulary lacks.
    except Exception as error:
        raise ModelError(
            f"{fields.where}: the tokenizer's vocabulary and merges do not fit together: {error}"
        ) from error


def _add_tokens(backend: tokenizers.Tokenizer, pieces: Sequence[str], types: Sequence[int]) -> None:
    """Have control and user-defined tokens found in text before anything is merged."""
    from tokenizers import AddedToken

    def added(wanted: tuple[int, ...], special: bool) -> list[AddedToken]:
        return [
            AddedToken(piece, special=special, normalized=False)
            for piece, kind in zip(pieces, types, strict=True)
            if kind in wanted and piece
        ]

    backend.add_special_tokens(added((_UNKNOWN, _CONTROL), True))
    backend.add_tokens(added((_USER,), False))


def _surround(backend: tokenizers.Tokenizer, bos_id: int | None, eos_id: int | None) -> None:
    from tokenizers import processors

    if bos_id is None and eos_id is None:
        return
    ends = {"bos": bos_id, "eos": eos_id}
    template = ["bos"] * (bos_id is not None) + ["$A"] + ["eos"] * (eos_id is not None)
    names = [(name, token) for name, token in ends.items() if token is not None]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=names)


def _token(fields: Fields, name: str, count: int) -> int | None:
    """The id under ``name``; None when absent or (as some converters write) out of range."""
    token = fields.integer(_PREFIX + name, -1)
    return token if 0 <= token < count else None


def _end_ids(fields: Fields, pieces: Sequence[str], types: Sequence[int]) -> frozenset[int]:
    named = (_token(fields, key, len(pieces)) for key in _END_KEYS)
    found = {token for token in named if token is not None}
    found |= {i for i, p in enumerate(pieces) if types[i] == _CONTROL and p in _END_PIECES}
    return frozenset(found)

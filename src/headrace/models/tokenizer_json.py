"""A Tokenizer from the ``tokenizer.json`` of a Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.models.tokenizer import Alphabet, Tokenizer, Vocabulary
from headrace.nouns.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens")


def tokenizer_from_json(
    path: Path, names: Mapping[str, Any], bos_id: int | None, eos_ids: Iterable[int]
) -> Tokenizer:
    """Build the tokenizer in ``path``.

    ``names`` is ``tokenizer_config.json``, where it names special tokens; ``bos_id`` and
    ``eos_ids`` are what the model's own configuration says and are added to.

    Raises ModelError when the file is missing or damaged, or is of a kind whose tokens have no
    exact bytes.
    """
    backend = _load(path)
    backend.no_truncation()
    backend.no_padding()
    special_names = [text for key in _NAMED for text in _texts(names.get(key))]
    in_vocabulary = [text for text in special_names if backend.token_to_id(text) is not None]
    backend.add_special_tokens(in_vocabulary)
    ids = backend.get_vocab(with_added_tokens=True)
    size = 1 + max(ids.values(), default=-1)
    if not 0 < size <= 1 << 24:
        raise ModelError(f"{path}: the highest token id is {size - 1}; the file is damaged")
    pieces: list[str | None] = [None] * size
    for piece, token in ids.items():
        pieces[token] = piece
    added = backend.get_added_tokens_decoder()
    for token, entry in added.items():
        pieces[token] = entry.content
    alphabet, prefix_space = _alphabet(backend, path)
    named_bos = _ids(backend, names.get("bos_token"))
    vocabulary = Vocabulary(
        pieces=pieces,
        alphabet=alphabet,
        special=frozenset(token for token, entry in added.items() if entry.special),
        literal=frozenset(token for token, entry in added.items() if not entry.special),
        prefix_space=prefix_space,
        bos_id=next(iter(named_bos), bos_id),
        eos_ids=frozenset(_ids(backend, names.get("eos_token"))) | frozenset(eos_ids),
    )
    return Tokenizer(backend, vocabulary, f"{alphabet} {type(backend.model).__name__}")


def _load(path: Path) -> tokenizers.Tokenizer:
    import tokenizers

    if not path.is_file():
        raise ModelError(
            f"{path.parent} has no tokenizer.json; if it has another form of the tokenizer, save"
            " it with transformers' AutoTokenizer.save_pretrained"
        )
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    # The library has no exception of its own for a file that it cannot parse.
    except Exception as error:
        raise ModelError(f"{path} is damaged or not supported: {error}") from error


def _alphabet(backend: tokenizers.Tokenizer, path: Path) -> tuple[Alphabet, bool]:
    """How pieces write bytes, and whether decoding takes a space off the front."""
    steps = list(_steps(backend.decoder))
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return "byte-level", False
    if "Metaspace" in kinds:
        schemes = [step.get("prepend_scheme") for step in steps if step["type"] == "Metaspace"]
        return "sentencepiece", schemes != ["never"]
    if "ByteFallback" in kinds or "Replace" in kinds:
        return "sentencepiece", "Strip" in kinds
    raise ModelError(
        f"{path}: a tokenizer whose decoder is {sorted(map(str, kinds)) or 'absent'} is not"
        " supported; supported are byte-level and sentencepiece vocabularies"
    )


def _steps(decoder: Any) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    state = json.loads(decoder.__getstate__())
    yield from state.get("decoders", [state])


def _texts(value: Any) -> list[str]:
    """The names in a string, an object with ``content``, or a list of these."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return _texts(value.get("content"))
    if isinstance(value, list):
        return [text for entry in value for text in _texts(entry)]
    return []


def _ids(backend: tokenizers.Tokenizer, value: Any) -> list[int]:
    found = (backend.token_to_id(text) for text in _texts(value))
    return [token for token in found if token is not None]

"""Sentencepiece vocabularies: the ids of sentencepiece and of transformers, exact bytes back."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

from headrace.models.gguf_tokenizer import gguf_tokenizer
from headrace.models.tokenizer import Tokenizer
from headrace.models.tokenizer_json import tokenizer_from_json
from headrace.nouns.errors import ModelError
from tests.models.tiny import CORPUS

SPACE = "\u2581"
WORDS = ["hello world", "the cat sat on the mat", "where there is a will", "a  b   c    d"]

texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="theca swr  \n12é你", max_size=40),
    st.sampled_from(CORPUS),
).filter(lambda text: not any(name in text for name in ("<s>", "</s>", "<unk>")))


@cache
def processor() -> Any:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CORPUS, *WORDS] * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=620,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def pieces_and_scores() -> tuple[list[str], list[float]]:
    spm = processor()
    count = spm.get_piece_size()
    return [spm.id_to_piece(i) for i in range(count)], [spm.get_score(i) for i in range(count)]


def kind_of(token: int) -> int:
    spm = processor()
    if spm.is_unknown(token):
        return 2
    if spm.is_control(token):
        return 3
    return 6 if spm.is_byte(token) else 1


def metadata(**extra: Any) -> dict[str, Any]:
    pieces, scores = pieces_and_scores()
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [kind_of(i) for i in range(len(pieces))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    } | {f"tokenizer.ggml.{key}": value for key, value in extra.items()}


@cache
def ours() -> Tokenizer:
    return gguf_tokenizer(metadata(), "tiny.gguf")


@cache
def merges() -> list[tuple[str, str]]:
    """The merges that transformers derives from the same pieces."""
    pieces, scores = pieces_and_scores()
    vocab = {piece: i for i, piece in enumerate(pieces)}
    ranked = {p: s for i, (p, s) in enumerate(zip(pieces, scores, strict=True)) if kind_of(i) == 1}
    found: list[tuple[str, str]] = generate_merges(vocab, ranked)
    return found


def test_ids_are_those_of_sentencepiece() -> None:
    for text in [*CORPUS, *WORDS, " ".join(WORDS)]:
        if not any(name in text for name in ("<s>", "</s>", "<unk>")):
            assert ours().encode(text, add_special=False) == processor().encode(text)


@given(text=texts)
def test_ids_are_those_of_sentencepiece_on_any_text(text: str) -> None:
    if "\0" not in text and SPACE not in text:
        assert ours().encode(text, add_special=False) == processor().encode(text)


def test_ids_are_those_of_the_llama_tokenizer() -> None:
    """It puts no space before a text that begins with one; sentencepiece and we do."""
    pieces, _ = pieces_and_scores()
    reference = LlamaTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges(), legacy=True
    )
    for text in [*CORPUS, *WORDS]:
        if not text.startswith(" ") and "<" not in text:
            expected = reference.encode(text, add_special_tokens=False)
            assert ours().encode(text, add_special=False) == expected


@given(text=texts)
def test_bytes_of_the_tokens_are_the_text(text: str) -> None:
    ids = ours().encode(text, add_special=False)
    expected = f" {text}".replace(SPACE, " ") if text else ""
    assert b"".join(map(ours().token_bytes, ids)) == expected.encode()
    assert ours().decode(ids) == text.replace(SPACE, " ")


def test_special_tokens_and_bytes() -> None:
    mine = ours()
    hello = mine.encode("hello", add_special=False)
    assert mine.encode("hello") == [1, *hello]
    assert mine.encode("hello</s>", add_special=False) == [*hello, 2]
    assert 2 not in mine.encode("hello</s>", parse_special=False)
    assert mine.decode(mine.encode("hello</s>", parse_special=False)) == "hello</s>"
    newline = mine.token_id("<0x0A>")
    assert newline is not None
    assert mine.token_bytes(newline) == b"\n"
    assert mine.eos_ids == {2}
    assert "".join(mine.special_text(t) for t in (0, 1, 2)) == "<unk><s></s>"


def test_no_space_before_the_text_when_the_file_says_so() -> None:
    mine = gguf_tokenizer(metadata(add_space_prefix=False), "tiny.gguf")
    ids = mine.encode("hello", add_special=False)
    assert b"".join(map(mine.token_bytes, ids)) == b"hello"
    assert mine.decode(mine.encode(" hello")) == " hello"


def test_directory_of_the_same_pieces(tmp_path: Path) -> None:
    pieces, _ = pieces_and_scores()
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Backend(
        models.BPE(
            vocab=vocab, merges=merges(), unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    reference = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    reference.save_pretrained(tmp_path)
    mine = tokenizer_from_json(tmp_path / "tokenizer.json", {"eos_token": "</s>"}, 1, [])
    for text in [*CORPUS, *WORDS, "".join(CORPUS)]:
        ids = mine.encode(text)
        assert ids == reference.encode(text)
        assert mine.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        for token in ids:
            assert mine.token_bytes(token) == ours().token_bytes(token)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0]}, "1 scores for"),
        ({"scores": None}, "scores"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces is set"),
        ({"precompiled_charsmap": [1, 2]}, "precompiled_charsmap is set"),
        ({"tokens": [1, 2]}, "list of strings"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        gguf_tokenizer(metadata(**changes), "tiny.gguf")

"""Byte-level tokenizers: the ids of transformers, and exact bytes back."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from headrace.models.byte_level import byte_of_character
from headrace.models.gguf_tokenizer import gguf_tokenizer
from headrace.models.loader import ModelFiles
from headrace.models.source import resolve
from headrace.models.tokenizer import Tokenizer
from headrace.models.tokenizer_json import tokenizer_from_json
from headrace.nouns.errors import InvalidRequest, ModelError
from tests.models.tiny import CORPUS, byte_vocabulary, vocabulary_metadata

# As in the tokenizer.json of the Llama 3 release.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]

texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="ab 1\n\t'sStT.é你🎉\r", max_size=40),
    st.lists(st.sampled_from([*CORPUS, *CONTROL]), max_size=3).map("".join),
)


def by_hand(pieces: list[str], merges: list[str], cutting: Any, **options: Any) -> Backend:
    vocab = {piece: i for i, piece in enumerate(pieces)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    backend = Backend(models.BPE(vocab=vocab, merges=pairs, **options))
    backend.pre_tokenizer = cutting
    backend.decoder = decoders.ByteLevel()
    return backend


@cache
def trained() -> tuple[list[str], list[str]]:
    """Pieces and merges of a small vocabulary whose merges cross what other patterns would cut."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=900,
            initial_alphabet=sorted(bytes_to_unicode().values()),
            special_tokens=CONTROL,
            show_progress=False,
        ),
    )
    state = json.loads(backend.to_str())["model"]
    pieces = sorted(state["vocab"], key=state["vocab"].__getitem__)
    return pieces, [" ".join(pair) for pair in state["merges"]]


def ours(pre: str, **extra: Any) -> Tokenizer:
    metadata = vocabulary_metadata(*trained(), pre, CONTROL)
    return gguf_tokenizer(metadata | extra, "tiny.gguf")


def theirs(pre: str) -> Any:
    pieces, merges = trained()
    if pre == "qwen2":
        vocab = {piece: i for i, piece in enumerate(pieces)}
        pairs = [tuple(merge.split(" ")) for merge in merges]
        return Qwen2Tokenizer(vocab=vocab, merges=pairs, extra_special_tokens=CONTROL)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cutting: Any = {
        "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), plain],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), gpt2],
        "gpt-2": [gpt2],
    }[pre]
    backend = by_hand(
        pieces, merges, pre_tokenizers.Sequence(cutting), ignore_merges=pre == "llama-bpe"
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=CONTROL)


PAIRS = {pre: (ours(pre), theirs(pre)) for pre in ("llama-bpe", "qwen2", "smollm", "gpt-2")}


@pytest.mark.parametrize("pre", PAIRS)
def test_ids_on_the_corpus(pre: str) -> None:
    mine, reference = PAIRS[pre]
    for text in [*CORPUS, "".join(CORPUS), "\n".join(CORPUS)]:
        expected = reference.encode(text, add_special_tokens=False)
        assert mine.encode(text, add_special=False) == expected


@pytest.mark.parametrize("pre", PAIRS)
@given(text=texts)
def test_ids_on_any_text(pre: str, text: str) -> None:
    mine, reference = PAIRS[pre]
    expected = reference.encode(text, add_special_tokens=False)
    assert mine.encode(text, add_special=False) == expected


def test_pre_tokenizers_differ_on_the_corpus() -> None:
    """Otherwise the corpus could not tell a wrong one."""
    joined = "\n".join(CORPUS)
    assert len({tuple(mine.encode(joined, add_special=False)) for mine, _ in PAIRS.values()}) == 4


@pytest.mark.parametrize("pre", ["llama-bpe", "smollm", "gpt-2"])
@given(text=texts)
def test_bytes_of_the_tokens_are_the_text(pre: str, text: str) -> None:
    mine, _ = PAIRS[pre]
    for parse in (True, False):
        ids = mine.encode(text, add_special=False, parse_special=parse)
        parts = [mine.special_text(t).encode() or mine.token_bytes(t) for t in ids]
        assert b"".join(parts) == text.encode()
        assert mine.decode(ids, skip_special=False) == text


@pytest.fixture(scope="module")
def reference(default_model: ModelFiles) -> Any:
    """SmolLM2's tokenizer in transformers, from the same vocabulary, read by the gguf package."""
    fields = gguf.GGUFReader(resolve("smollm2:135m", progress=False).path).fields
    pieces = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    cutting = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    backend = by_hand(pieces, fields["tokenizer.ggml.merges"].contents(), cutting)
    control = [piece for piece, kind in zip(pieces, types, strict=True) if kind == 3]
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=control)


def test_default_model_on_the_corpus(default_model: ModelFiles, reference: Any) -> None:
    mine = default_model.tokenizer
    for text in [*CORPUS, "".join(CORPUS), "\n".join(CORPUS)]:
        ids = mine.encode(text)
        assert ids == reference.encode(text)
        parts = [mine.special_text(t).encode() or mine.token_bytes(t) for t in ids]
        assert b"".join(parts) == text.encode()
        assert mine.decode(ids) == reference.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


@given(text=texts)
def test_default_model_on_any_text(default_model: ModelFiles, reference: Any, text: str) -> None:
    assert default_model.tokenizer.encode(text) == reference.encode(text)


def test_directory_gives_the_same_tokenizer(
    default_model: ModelFiles, reference: Any, tmp_path: Path
) -> None:
    reference.save_pretrained(tmp_path)
    names = json.loads((tmp_path / "tokenizer_config.json").read_text())
    mine = tokenizer_from_json(tmp_path / "tokenizer.json", names, 1, [2])
    assert mine.vocab_size == default_model.tokenizer.vocab_size
    for text in CORPUS:
        assert mine.encode(text) == reference.encode(text)
    for token in range(0, mine.vocab_size, 7):
        assert mine.token_bytes(token) == default_model.tokenizer.token_bytes(token)
        assert mine.is_special(token) == default_model.tokenizer.is_special(token)


def test_special_tokens_only_where_asked_for() -> None:
    mine = ours("llama-bpe")
    text = "a<|im_end|>b"
    end = CONTROL.index("<|im_end|>")
    assert end in mine.encode(text)
    plain = mine.encode(text, parse_special=False)
    assert end not in plain
    assert mine.decode(plain) == text
    assert end in mine.encode(text)  # the other way of encoding has left no trace
    assert mine.is_special(end)
    assert mine.token_bytes(end) == b""
    assert mine.special_text(end) == "<|im_end|>"
    assert mine.special_text(300) == ""
    assert mine.decode([end, 300]) == mine.decode([300])


def test_begin_of_sequence_token() -> None:
    named = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 3}
    llama = ours("llama-bpe", **named)
    assert llama.encode("x") == [0, *llama.encode("x", add_special=False)]
    assert llama.bos_id == 0
    assert ours("qwen2", **named).encode("x")[0] != 0
    asked = ours("qwen2", **named, **{"tokenizer.ggml.add_bos_token": True})
    assert asked.encode("x")[0] == 0
    both = ours("smollm", **named, **{
        "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True,
    })  # fmt: skip
    ids = both.encode("x")
    assert (ids[0], ids[-1]) == (0, 3)
    refused = ours("llama-bpe", **named, **{"tokenizer.ggml.add_bos_token": False})
    assert refused.encode("x")[0] != 0


def test_end_tokens() -> None:
    assert ours("qwen2").eos_ids == {2, 3}  # by their names
    assert ours("qwen2", **{"tokenizer.ggml.eot_token_id": 300}).eos_ids == {2, 3, 300}
    assert ours("qwen2", **{"tokenizer.ggml.eos_token_id": 10**6}).eos_ids == {2, 3}


def test_user_defined_tokens_are_text() -> None:
    metadata = byte_vocabulary()
    metadata["tokenizer.ggml.tokens"].append("<tool é>")
    metadata["tokenizer.ggml.token_type"].append(4)
    mine = gguf_tokenizer(metadata, "tiny.gguf")
    added = mine.vocab_size - 1
    for parse in (True, False):
        assert added in mine.encode("x<tool é>y", parse_special=parse)
    assert not mine.is_special(added)
    assert mine.token_bytes(added) == "<tool é>".encode()


def test_added_tokens_of_a_directory_are_text(tmp_path: Path) -> None:
    pieces, merges = trained()
    cutting = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend = by_hand(pieces, merges, cutting)
    backend.add_tokens([AddedToken("<tool é>", normalized=False)])
    backend.add_special_tokens(["<|end|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    names = {"eos_token": "<|end|>", "bos_token": None}
    mine = tokenizer_from_json(tmp_path / "tokenizer.json", names, None, [])
    text = "é<tool é><|end|>"
    ids = mine.encode(text)
    assert [mine.token_bytes(t) for t in ids[-2:]] == ["<tool é>".encode(), b""]
    assert mine.decode(ids, skip_special=False) == text
    assert mine.eos_ids == {ids[-1]}


def test_ids_without_a_token() -> None:
    mine = ours("smollm")
    for token in (mine.vocab_size, 10**9, -1):
        assert mine.token_bytes(token) == b""
        assert not mine.is_special(token)
        assert mine.special_text(token) == ""
    assert mine.decode([mine.vocab_size]) == ""


def test_broken_characters_decode_to_the_replacement() -> None:
    mine = gguf_tokenizer(byte_vocabulary(), "tiny.gguf")
    ids = mine.encode("é")
    assert len(ids) == 2
    assert mine.decode(ids[:1]) == "\ufffd"
    assert mine.token_bytes(ids[0]) == b"\xc3"


def test_other_threads_run_while_a_long_text_is_encoded(default_model: ModelFiles) -> None:
    tokenizer = default_model.tokenizer
    encoded: list[int] = []
    worker = Thread(target=lambda: encoded.extend(tokenizer.encode("hello world " * 100_000)))
    worker.start()
    ticks = 0
    while worker.is_alive():
        ticks += 1
        worker.join(0.001)
    assert encoded == [28120, *[905, 33662] * 99_999, 905, 216]
    assert ticks > 5


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate at character 1"):
        ours("smollm").encode("a\ud800")


def test_byte_alphabet_is_that_of_transformers() -> None:
    assert byte_of_character() == {c: b for b, c in bytes_to_unicode().items()}


def test_kinds_without_exact_bytes_are_refused(tmp_path: Path) -> None:
    backend = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"\['WordPiece'\] is not supported; supported are byte"):
        tokenizer_from_json(tmp_path / "tokenizer.json", {}, None, [])

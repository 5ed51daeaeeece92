"""How a text is cut before byte pairs are merged, by the name GGUF files give it.

The names are those of ``tokenizer.ggml.pre`` in the llama.cpp project; the patterns are the ones
in the ``tokenizer.json`` of the models that introduced them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """A way to cut text. ``apply`` sets it, with its normaliser, on a ``tokenizers`` tokenizer.

    ``ignore_merges`` takes a whole piece that is a token as it is; ``add_bos`` is what files that
    do not say so mean about the begin-of-sequence token.
    """

    apply: Callable[[tokenizers.Tokenizer], None]
    ignore_merges: bool = False
    add_bos: bool = False


def _split(pattern: str, normalise: bool) -> Callable[[Any], None]:
    def apply(tokenizer: Any) -> None:
        from tokenizers import Regex, normalizers, pre_tokenizers

        if normalise:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    return apply


def _gpt2(digits: bool) -> Callable[[Any], None]:
    def apply(tokenizer: Any) -> None:
        from tokenizers import pre_tokenizers

        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if digits:
            single = pre_tokenizers.Digits(individual_digits=True)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([single, words])
        else:
            tokenizer.pre_tokenizer = words

    return apply


_LLAMA_BPE = PreTokenizer(_split(_LLAMA3, normalise=False), ignore_merges=True, add_bos=True)
_QWEN = PreTokenizer(_split(_QWEN2, normalise=True))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "llama-bpe": _LLAMA_BPE,
    "llama3": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
    "smollm": PreTokenizer(_gpt2(digits=True)),
    "qwen2": _QWEN,
    "deepseek-r1-qwen": _QWEN,
    "gpt-2": PreTokenizer(_gpt2(digits=False)),
}

"""Tiny models written to disk: GGUF files with chosen tensor types, vocabularies, corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

HIDDEN, HEADS, KV_HEADS, LAYERS, INNER = 256, 4, 2, 2, 256
HEAD_DIM = HIDDEN // HEADS

CORPUS = [
    "Hello, world! The quick brown fox jumps over the lazy dog.",
    "",
    " ",
    "  leading and trailing  ",
    "a  b   c    d     e\t\ttabs\n\nnewlines\r\n\r\n   \n mixed \t \n",
    "I'll they've we're it's HE'LL don't 'quoted'",
    "0 1 12 123 1234 12345678901234567890 3.14159 1,000,000 ½ ² ٣ ४",
    "naïve café Zürich Ærøskøbing ﬁne Å",
    "你好，世界。これはテストです。 한국어 텍스트 ไทย हिन्दी العربية עברית",  # noqa: RUF001
    "emoji 🎉👩‍👩‍👧‍👦🏳️‍🌈 and flags 🇳🇴",
    "def f(x: int) -> int:\n    return {'a': x ** 2}[\"a\"]  # comment\n\n\nclass A:\n\tpass\n",
    'for(i=0;i<10;++i){printf("%d\\n",i);}/*!?*/ && || != ->',
    "https://example.org/a_b-c?d=e&f=%20#g",
    "zero\u200bwidth no\u00a0break soft\u00adhyphen \u3000ideographic \ufeffbom \x00nul \x7f",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<s>in the middle</s> of <unk> text <0x41>",
    "\U0001f600" * 3 + "\u0301 combining",
    "...---===***   !!!???",
]


def vocabulary_metadata(
    pieces: Sequence[str], merges: Sequence[str], pre: str, control: Sequence[str] = ()
) -> dict[str, Any]:
    """GGUF metadata of a byte-level tokenizer."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": list(pieces),
        "tokenizer.ggml.token_type": [3 if piece in control else 1 for piece in pieces],
        "tokenizer.ggml.merges": list(merges),
    }


def byte_vocabulary() -> dict[str, Any]:
    """The smallest byte-level tokenizer: 256 bytes, two merges, two control tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [chr(0x100 + i) for i in range(256 - len(printable))]
    pieces = ["<|endoftext|>", "<|im_end|>", *map(chr, printable), *shifted, "he", "hel"]
    metadata = vocabulary_metadata(pieces, ["h e", "he l"], "gpt-2", pieces[:2])
    return metadata | {"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.bos_token_id": 0}


def shapes(architecture: str, vocab: int) -> dict[str, tuple[int, ...]]:
    """GGUF names and row-major shapes of a tiny model's tensors."""
    kv = KV_HEADS * HEAD_DIM
    named: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (vocab, HIDDEN),
    }
    for i in range(LAYERS):
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (HIDDEN,), "ffn_norm.weight": (HIDDEN,),
            "attn_q.weight": (HIDDEN, HIDDEN), "attn_k.weight": (kv, HIDDEN),
            "attn_v.weight": (kv, HIDDEN), "attn_output.weight": (HIDDEN, HIDDEN),
            "ffn_gate.weight": (INNER, HIDDEN), "ffn_up.weight": (INNER, HIDDEN),
            "ffn_down.weight": (HIDDEN, INNER),
        }  # fmt: skip
        if architecture == "qwen2":
            layer |= {"attn_q.bias": (HIDDEN,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
        if architecture == "qwen3":
            layer |= {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)}
        named |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return named


def model_metadata(architecture: str) -> dict[str, Any]:
    """GGUF metadata of a tiny model's shape."""
    return {
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": 512,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": INNER,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 10000.0,
    }


def random_blocks(
    shape: tuple[int, ...], qtype: GGMLQuantizationType, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Random bytes of a type: any block is valid, if not always finite."""
    block, nbytes = GGML_QUANT_SIZES[qtype]
    if qtype == GGMLQuantizationType.F32:
        return rng.standard_normal(shape, np.float32)
    rows = (*shape[:-1], shape[-1] // block * nbytes)
    return rng.integers(0, 256, rows, np.uint8)


def write_gguf(
    path: Path,
    architecture: str = "llama",
    qtype: GGMLQuantizationType = GGMLQuantizationType.F32,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
    without: Sequence[str] = (),
) -> dict[str, np.ndarray[Any, Any]]:
    """Write a tiny model; matrices of ``qtype``, vectors in float32.

    ``metadata`` and ``tensors`` add to or replace what is written (None drops a key), ``without``
    leaves tensors out. Returns the raw arrays by GGUF name.
    """
    fields = model_metadata(architecture) | byte_vocabulary() | dict(metadata or {})
    rng = np.random.default_rng(0)
    vocab = len(fields["tokenizer.ggml.tokens"])
    float32 = GGMLQuantizationType.F32
    raw: dict[str, np.ndarray[Any, Any]] = {}
    for name, shape in shapes(architecture, vocab).items():
        raw[name] = random_blocks(shape, qtype if len(shape) == 2 else float32, rng)
    raw |= dict(tensors or {})
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        _add(writer, key, value)
    for name, data in raw.items():
        if name not in without:
            writer.add_tensor(name, data, raw_dtype=qtype if data.dtype == np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return raw


def _add(writer: Any, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)

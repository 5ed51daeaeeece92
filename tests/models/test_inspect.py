"""What ``headrace models inspect`` has to say about a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf.constants import GGMLQuantizationType

from headrace.models.inspect import describe
from headrace.models.source import resolve
from headrace.nouns.errors import ModelError
from tests.models.tiny import write_gguf


def test_default_model() -> None:
    source = resolve("smollm2:135m", progress=False)
    found = describe(source)
    assert (found.name, found.architecture, found.kind) == ("smollm2:135m", "llama", "gguf")
    assert [(t.type, t.count) for t in found.tensor_types] == [
        ("Q4_1", 210), ("Q8_0", 1), ("F32", 61),
    ]  # fmt: skip
    assert sum(t.nbytes for t in found.tensor_types) < found.file_bytes == 98_362_432
    assert found.parameters == 134_515_008
    assert found.tokenizer == "byte-level BPE (smollm)"
    assert found.tokens == 49152
    assert found.eos == ("<|endoftext|>", "<|im_end|>")
    assert found.chat_template
    assert not found.tools
    assert (found.max_context, found.context_note) == (8192, "")


def test_limited_context_and_tools(tmp_path: Path) -> None:
    extra = {
        "llama.attention.sliding_window": 64,
        "tokenizer.chat_template": "{% for tool in tools %}{{ tool }}{% endfor %}",
    }
    write_gguf(tmp_path / "m.gguf", qtype=GGMLQuantizationType.Q6_K, metadata=extra)
    found = describe(resolve(str(tmp_path / "m.gguf")))
    assert found.max_context == 64
    assert "limited to 64" in found.context_note
    assert found.tools
    assert {t.type for t in found.tensor_types} == {"Q6_K", "F32"}


def test_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(ModelError, match="version 0"):
        describe(resolve(str(tmp_path / "m.gguf")))

"""Damaged GGUF files give a ModelError or a model, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.models.loader import open_model
from headrace.models.source import ModelSource
from headrace.nouns.errors import ModelError
from tests.models.tiny import write_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "m.gguf"
    write_gguf(path, metadata={"tokenizer.chat_template": "{{ messages[0].content }}"})
    return path.read_bytes()


@pytest.fixture(scope="module")
def header_size(whole: bytes) -> int:
    return whole.index(b"output_norm.weight") + 4096


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "m.gguf"


def use(path: Path, content: bytes) -> bool:
    """Open it and use all of it; True when that worked."""
    path.write_bytes(content)
    try:
        files = open_model(ModelSource("damaged", path, "gguf"))
        for name in files.weights.names():
            files.weights.get(name, torch.float32)
        ids = files.tokenizer.encode("hello <|im_end|> world")
        files.tokenizer.decode(ids)
    except ModelError:
        return False
    return True


def test_whole_file_opens(whole: bytes, place: Path) -> None:
    assert use(place, whole)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated(whole: bytes, header_size: int, place: Path, data: st.DataObject) -> None:
    end = data.draw(st.one_of(st.integers(0, header_size), st.integers(0, len(whole) - 64)))
    assert not use(place, whole[:end])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes(whole: bytes, header_size: int, place: Path, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header_size))
        damaged[at] = data.draw(st.sampled_from([0, 1, 8, 9, 0x7F, 0x80, 0xFF, damaged[at] ^ 1]))
    use(place, bytes(damaged))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_huge_numbers(whole: bytes, header_size: int, place: Path, data: st.DataObject) -> None:
    """Counts and lengths that would need more memory than there is."""
    at = data.draw(st.one_of(st.just(8), st.just(16), st.integers(0, header_size)))
    huge = data.draw(st.sampled_from([2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1]))
    use(place, whole[:at] + huge.to_bytes(8, "little") + whole[at + 8 :])

"""Lines of a batch: both forms, and what is wrong with bad ones."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli import batch_input
from headrace.cli.batch_input import (
    CHAT,
    COMPLETIONS,
    BadLine,
    BatchLine,
    LineError,
    count_lines,
    open_input,
    parse_line,
    read_lines,
)
from headrace.nouns.errors import ConfigError


def parse(value: Any, **defaults: Any) -> BatchLine:
    return parse_line(7, json.dumps(value).encode(), defaults)


def test_a_batch_line() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    line = parse({"custom_id": "a", "method": "POST", "url": CHAT, "body": body})
    assert (line.number, line.custom_id, line.url, line.body) == (7, "a", CHAT, body)


@pytest.mark.parametrize(
    ("value", "url", "body"),
    [
        ("once upon", COMPLETIONS, {"prompt": "once upon"}),
        ({"prompt": "once", "n": 2}, COMPLETIONS, {"prompt": "once", "n": 2}),
        ({"messages": []}, CHAT, {"messages": []}),
    ],
)
def test_plain_lines(value: Any, url: str, body: dict[str, Any]) -> None:
    line = parse(value)
    assert (line.custom_id, line.url, line.body) == ("line-7", url, body)


def test_a_plain_line_may_have_an_id() -> None:
    assert parse({"prompt": "once", "custom_id": "x"}).custom_id == "x"


def test_defaults_fill_what_a_line_leaves_open() -> None:
    assert parse("a", max_tokens=5).body["max_tokens"] == 5
    assert parse({"prompt": "a", "max_tokens": 9}, max_tokens=5).body["max_tokens"] == 9
    newer = parse({"messages": [], "max_completion_tokens": 9}, max_tokens=5, temperature=0.0)
    assert newer.body == {"messages": [], "max_completion_tokens": 9, "temperature": 0.0}


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"17", "object or a JSON string"),
        (b"[]", "object or a JSON string"),
        (b"{}", "either prompt or messages"),
        (b'{"prompt": "a", "messages": []}', "either prompt or messages"),
        (b'{"prompt": "a", "custom_id": 3}', "custom_id is not a text"),
        (b'{"prompt": "a", "stream": true}', "stream"),
        (b'{"url": "/v1/completions", "body": {}}', "custom_id is missing"),
        (b'{"custom_id": "a", "url": "/v1/embeddings", "body": {}}', "'/v1/embeddings'"),
        (b'{"custom_id": "a", "url": "/v1/completions"}', "body is missing"),
        (b'{"custom_id": "a", "url": "/v1/completions", "body": []}', "no JSON object"),
        (b'{"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {}}', "'GET'"),
        (b'{"custom_id": "a", "url": "/v1/completions", "body": {}, "x": 1}', "unknown field 'x'"),
    ],
)
def test_bad_lines_say_why(raw: bytes, told: str) -> None:
    with pytest.raises(LineError, match=told):
        parse_line(1, raw, {})


def read(data: bytes) -> list[BatchLine | BadLine]:
    return list(read_lines(io.BytesIO(data), {}))


def test_bad_lines_stand_among_good_ones() -> None:
    found = read(b'"a"\n\n{oops\n  "b"  \n')
    assert [(type(line), line.number) for line in found] == [
        (BatchLine, 1),
        (BadLine, 3),
        (BatchLine, 4),
    ]
    assert isinstance(found[1], BadLine)
    assert found[1].raw == "{oops"


def test_a_byte_order_mark_and_no_last_line_break_are_fine() -> None:
    found = read(b'\xef\xbb\xbf"a"\r\n"b"')
    assert [line.body["prompt"] for line in found if isinstance(line, BatchLine)] == ["a", "b"]


def test_a_huge_line_is_bad_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_input, "MAX_LINE", 100)
    found = read(b'"' + b"x" * 1000 + b'"\n"b"\n')
    assert isinstance(found[0], BadLine)
    assert "longer than 100 bytes" in found[0].reason
    assert isinstance(found[1], BatchLine)
    assert (found[1].number, found[1].body) == (2, {"prompt": "b"})


@given(st.lists(st.binary()))
def test_any_bytes_are_lines_or_bad_lines(parts: list[bytes]) -> None:
    data = b"\n".join(parts)
    found = read(data)
    assert len(found) <= count_lines(io.BytesIO(data))
    numbers = [line.number for line in found]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("data", "lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\n\nb", 3), (b"\n", 1)]
)
def test_counting(data: bytes, lines: int) -> None:
    assert count_lines(io.BytesIO(data)) == lines


def test_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        open_input(tmp_path / "missing")
    with pytest.raises(ConfigError, match="directory"):
        open_input(tmp_path)

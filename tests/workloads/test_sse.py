"""Streams on a scripted timeline: what arrived when, in whatever pieces."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.workloads.record import Record
from headrace.workloads.sse import CompletionStream, StreamFault


def chunk(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def usage(completion: int, prompt: int = 7, cached: int | None = None) -> bytes:
    counts: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return event({"choices": [], "usage": counts})


DONE = b"data: [DONE]\n\n"


def read(*script: tuple[float, bytes]) -> Record:
    record = Record(due=0.0, sent=0.0)
    stream = CompletionStream(record)
    for now, data in script:
        stream.feed(data, now)
    stream.close()
    return record


def test_a_timeline() -> None:
    record = read(
        (1.0, chunk("a")), (2.0, chunk("b")), (4.0, chunk("c", "length")), (9.0, usage(5) + DONE)
    )
    assert (record.ttft, record.e2e, record.itl) == (1.0, 4.0, [1.0, 2.0])
    assert record.tpot == 3.0 / 4
    assert (record.prompt_tokens, record.output_tokens, record.cached) == (7, 5, None)


def test_without_usage_chunks_with_text_are_counted() -> None:
    record = read((1.0, chunk("a")), (2.0, chunk("")), (3.0, chunk("b", "stop") + DONE))
    assert record.output_tokens == 2
    assert record.cached is None


def test_an_end_without_text_ends_the_output_but_delivers_nothing() -> None:
    record = read((1.0, chunk("a")), (3.0, chunk("", "stop")), (3.0, usage(3, cached=4)))
    assert (list(record.deliveries), record.e2e, record.tpot) == ([1.0], 3.0, 1.0)
    assert record.cached == 4


def test_an_output_without_any_text_arrives_at_its_end() -> None:
    record = read((2.0, chunk("", "length")), (2.5, usage(1)))
    assert (record.ttft, record.e2e) == (2.0, 2.0)


def test_cached_tokens_in_the_words_of_another_server() -> None:
    last = event({
        "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1},
        "timings": {"cache_n": 6},
    })  # fmt: skip
    assert read((1.0, chunk("a", "length") + last)).cached == 6


@given(st.data())
def test_how_the_bytes_are_cut_changes_nothing_but_the_times(data: st.DataObject) -> None:
    whole = b": comment\r\n\r\n" + chunk("a") + chunk("é") + chunk("", "stop") + usage(4) + DONE
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))))
    edges = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(edges)]
    record = read(*((float(i), piece) for i, piece in enumerate(pieces)))
    assert len(record.deliveries) == 2
    assert record.output_tokens == 4
    assert record.deliveries[0] <= record.deliveries[1] <= record.end


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "incomplete"),
        (chunk("a"), "incomplete"),
        (chunk("a") + DONE, "incomplete"),
        (b"data: {oops\n\n", "bad_stream"),
        (b"data: 3\n\n", "bad_stream"),
        (event({"choices": [None]}), "bad_stream"),
        (event({"error": {"message": "no", "code": "engine_error"}}), "engine_error"),
        (event({"error": {"message": "no", "type": "server_error"}}), "server_error"),
        (event({"error": "no"}), "stream_error"),
    ],
)
def test_faults_have_a_kind(data: bytes, kind: str) -> None:
    with pytest.raises(StreamFault) as caught:
        read((1.0, data))
    assert caught.value.kind == kind


def test_a_line_without_an_end_is_given_up() -> None:
    with pytest.raises(StreamFault, match="longer than"):
        read((1.0, b"x" * (2**24 + 1)))

"""Small parts by themselves."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.api.histogram import Histogram
from headrace.api.mailbox import Mailbox
from headrace.api.vocabulary import LegacyLogprobs, Vocabulary
from headrace.nouns.delta import Delta, TokenLogprob
from tests.api.toy_engine import ToyTokenizer


@given(st.lists(st.floats(0, 100)))
def test_histogram_buckets_are_cumulative(values: list[float]) -> None:
    histogram = Histogram((0.5, 1, 10))
    for value in values:
        histogram.observe(value)
    for name, count in histogram.buckets():
        bound = math.inf if name == "+Inf" else float(name)
        assert count == sum(value <= bound for value in values)
    assert math.isclose(histogram.total, sum(values), abs_tol=1e-9)


@given(st.text())
def test_offsets_point_at_the_character_that_a_token_begins_or_is_in(text: str) -> None:
    tokens = text.encode("utf-8", "ignore")
    characters = tokens.decode()
    report = LegacyLogprobs(Vocabulary(ToyTokenizer()), 0)
    entries = [TokenLogprob(byte, -math.inf) for byte in tokens]
    half = len(entries) // 2
    offsets = (
        report.take(entries[:half])["text_offset"] + report.take(entries[half:])["text_offset"]
    )
    expected = [i for i, char in enumerate(characters) for _ in char.encode()]
    assert offsets == expected


def test_special_tokens_are_shown_by_name_and_infinity_as_a_number() -> None:
    shown = Vocabulary(ToyTokenizer()).chat([TokenLogprob(256, -math.inf, ((97, -math.inf),))])
    [entry] = shown["content"]
    assert (entry["token"], entry["bytes"], entry["logprob"]) == ("<end>", [*b"<end>"], -9999.0)
    assert entry["top_logprobs"][0]["token"] == "a"


def test_mailbox_keeps_the_order_and_loses_nothing() -> None:
    received: list[int] = []
    total = 5000

    async def read() -> None:
        done = asyncio.Event()

        def receive(choice: int, delta: Delta, now: float) -> None:
            received.append(choice)
            if choice == total - 1:
                done.set()

        mailbox = Mailbox(asyncio.get_running_loop())
        delta = Delta("x", 0)
        writer = threading.Thread(
            target=lambda: [mailbox.post(receive, i, delta, 0.0) for i in range(total)]
        )
        writer.start()
        await asyncio.wait_for(done.wait(), 20)
        writer.join()

    asyncio.run(read())
    assert received == list(range(total))


def test_mailbox_of_a_closed_loop_drops_letters() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    received: list[Any] = []
    mailbox.post(lambda *letter: received.append(letter), 0, Delta("x", 0), 0.0)
    assert received == []

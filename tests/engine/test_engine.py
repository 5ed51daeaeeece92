"""Engine: deltas, stop strings, log-probabilities, and who pays for a failed step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.engine import Engine
from headrace.nouns.delta import Delta
from headrace.nouns.errors import InvalidRequest
from headrace.nouns.request import Request
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason
from headrace.nouns.step import Step
from tests.engine.engines import END, Typist, build_engine
from tests.scheduling.mock_executor import MockExecutor, make_request, next_token


def typed(
    id: str, *, stop: tuple[str, ...] = (), max_tokens: int = 40, n: int = 1, **params: object
) -> Request:
    return Request(
        id=id,
        prompt=(1, 2, 3),
        max_tokens=max_tokens,
        params=SamplingParams(stop=stop, **params),  # type: ignore[arg-type]
        n=n,
        eos_ids=frozenset([END]),
    )


def run(engine: Engine) -> list[Delta]:
    deltas: list[Delta] = []
    while engine.has_work:
        deltas += engine.step()
        engine.scheduler.check_integrity()
    assert engine.scheduler.memory.available == engine.scheduler.memory.total
    assert not engine._outputs
    return deltas


def type_out(text: str, **options: object) -> tuple[str, Delta, list[Delta]]:
    """The text a client reads, the last delta, and all."""
    executor = Typist()
    executor.texts["r"] = text.encode()
    engine = build_engine(executor)
    engine.add(typed("r", **options))  # type: ignore[arg-type]
    deltas = run(engine)
    assert [d.finish_reason is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    return "".join(d.text for d in deltas), deltas[-1], deltas


def test_text_tokens_and_usage_of_a_whole_answer() -> None:
    text, last, deltas = type_out("Grüße, 世界!")
    assert text == "Grüße, 世界!"
    assert bytes(t for d in deltas for t in d.tokens).decode() == text
    assert (last.finish_reason, last.stop_reason) == (FinishReason.STOP, END)
    assert last.usage is not None
    assert (last.usage.prompt, last.usage.completion, last.usage.cached) == (
        3,
        len(text.encode()) + 1,
        0,
    )
    assert all(d.usage is None and not d.waits for d in deltas[:-1])
    assert sum(last.waits.values()) >= 0.0
    assert "queue" in last.waits


def test_a_character_comes_when_its_last_byte_does() -> None:
    _, _, deltas = type_out("é世")
    assert [d.text for d in deltas] == ["", "é", "", "", "世", ""]


def test_what_is_never_completed_comes_as_a_replacement_at_the_end() -> None:
    text, last, _ = type_out("世", max_tokens=2)
    assert text == "\ufffd"
    assert last.finish_reason is FinishReason.LENGTH


def test_a_stop_string_ends_at_once_and_is_not_part_of_the_text() -> None:
    text, last, deltas = type_out("one two three", stop=("two",))
    assert text == "one "
    assert (last.finish_reason, last.stop_reason) == (FinishReason.STOP, "two")
    assert len([t for d in deltas for t in d.tokens]) == len("one two")
    assert last.usage is not None
    assert last.usage.completion == len("one two")


def test_no_stop_string_ends_an_answer_before_min_tokens() -> None:
    text, last, _ = type_out("a;bcd;e", stop=(";",), min_tokens=4)
    assert (text, last.stop_reason) == ("a;bcd", ";")
    text, _, _ = type_out("abc;e", stop=(";",), min_tokens=4)  # the fourth may be the last
    assert text == "abc"


def test_the_start_of_a_stop_string_is_held_back_and_given_out_if_it_was_none() -> None:
    text, _, deltas = type_out("a</sop>b</stop>c", stop=("</stop>",))
    assert text == "a</sop>b"
    shown = ""
    for delta in deltas:
        shown += delta.text
        assert not any(shown.endswith("</stop>"[:i]) for i in range(1, 8))


def test_held_back_text_comes_when_the_answer_ends_otherwise() -> None:
    assert type_out("ab", stop=("bc",))[0] == "ab"
    text, last, _ = type_out("abcdef", stop=("cdx",), max_tokens=4)
    assert text == "abcd"
    assert last.finish_reason is FinishReason.LENGTH


@settings(max_examples=60, deadline=None)
@given(
    text=st.text("abé世", max_size=12),
    stops=st.lists(st.text("abé世", min_size=1, max_size=3), max_size=3, unique=True),
)
def test_deltas_make_up_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    shown, last, deltas = type_out(text, stop=tuple(stops), max_tokens=60)
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if ends:
        end, _, stop = min(ends)
        assert shown == text[: end - len(stop)]
        assert last.stop_reason == stop
        assert bytes(t for d in deltas for t in d.tokens) == text[:end].encode()
    else:
        assert (shown, last.stop_reason) == (text, END)


def test_log_probabilities_come_with_their_tokens() -> None:
    executor = Typist()
    executor.texts["r"] = b"abc"
    executor.logprobs = True
    engine = build_engine(executor)
    engine.add(typed("r", logprobs=2))
    deltas = run(engine)
    found = [item for d in deltas for item in d.logprobs]
    assert [item.token for item in found] == list(b"abc")
    assert [item.logprob for item in found] == [0.0, -0.5, -1.0]
    assert found[0].top == ((97, -0.5), (98, -1.5))
    assert all([i.token for i in d.logprobs] == list(d.tokens) for d in deltas)


def test_stop_tokens_are_no_part_of_the_output() -> None:
    executor = Typist()
    executor.texts["r"] = b"abc"
    engine = build_engine(executor)
    engine.add(typed("r", stop_token_ids=(ord("c"),)))
    deltas = run(engine)
    assert "".join(d.text for d in deltas) == "ab"
    assert deltas[-1].stop_reason == ord("c")


def test_siblings_have_deltas_of_their_own() -> None:
    executor = Typist()
    engine = build_engine(executor)
    engine.add(typed("r", n=3, max_tokens=5))
    deltas = run(engine)
    for index in range(3):
        mine = [d for d in deltas if d.index == index]
        tokens = [1, 2, 3]
        for delta in mine:
            for token in delta.tokens:
                assert token == next_token(tokens, index)
                tokens.append(token)
        assert len(tokens) == 8
        assert [d.finish_reason for d in mine] == [None] * 4 + [FinishReason.LENGTH]
    assert len(executor.forgotten) == 3


def test_an_abort_gives_each_open_sequence_its_last_delta() -> None:
    executor = Typist()
    executor.texts["r"] = b"a</s" * 9
    engine = build_engine(executor)
    engine.add(typed("r", n=2, stop=("</stop>",)))
    before = [d for _ in range(5) for d in engine.step()]
    last = engine.abort("r", "the client went away")
    assert [(d.index, d.finish_reason, d.error) for d in last] == [
        (0, FinishReason.ABORT, "the client went away"),
        (1, FinishReason.ABORT, "the client went away"),
    ]
    texts = ["".join(d.text for d in [*before, *last] if d.index == i) for i in range(2)]
    assert texts[0] == "a</sa"
    assert texts[1] == "a</s"
    assert engine.abort("r", "again") == []
    assert engine.abort("never seen", "again") == []
    assert not engine.has_work


def test_what_is_refused_leaves_nothing_behind() -> None:
    engine = build_engine(Typist(), blocks=4)
    with pytest.raises(InvalidRequest):
        engine.add(typed("r", max_tokens=40))
    assert not engine.has_work
    assert not engine._outputs


def test_a_poisoned_sequence_ends_with_its_error_and_the_others_do_not_notice() -> None:
    def answers(poisoned: bool) -> dict[str, list[int]]:
        executor = MockExecutor(4)
        engine = build_engine(executor)
        tokens: dict[str, list[int]] = {}
        for i in range(4):
            engine.add(make_request(f"r{i}", [1, 2, 3, 4, 5, i], 9, n=1 + i % 2))
        for _ in range(4):
            engine.step()
        if poisoned:
            executor.poisoned.add("r2")
        while engine.has_work:
            for delta in engine.step():
                name = f"{delta.request_id}/{delta.index}"
                tokens.setdefault(name, []).extend(delta.tokens)
                if delta.request_id == "r2" and poisoned:
                    assert delta.finish_reason is FinishReason.ERROR
                    assert delta.error == "poisoned by ['r2']"
                elif delta.finish_reason is not None:
                    assert delta.finish_reason is FinishReason.LENGTH
            engine.scheduler.check_integrity()
        assert engine.scheduler.memory.available == engine.scheduler.memory.total
        return tokens

    clean, poisoned = answers(False), answers(True)
    assert poisoned.pop("r2/0") == []
    clean.pop("r2/0")
    assert poisoned == clean


def test_isolation_survives_copies_and_padding() -> None:
    """The failed step is the one in which siblings copy their shared block."""
    executor = MockExecutor(4)
    engine = build_engine(executor)
    engine.add(make_request("bad", [9, 9], 6))
    engine.add(make_request("good", [1, 2], 6, n=3))
    engine.step()
    executor.poisoned.add("bad")
    deltas = run(engine)
    assert [d.request_id for d in deltas if d.finish_reason is FinishReason.ERROR] == ["bad"]
    for index in range(3):
        tokens = [1, 2]
        while len(tokens) < 8:
            tokens.append(next_token(tokens, index))
        found = [t for d in deltas if (d.request_id, d.index) == ("good", index) for t in d.tokens]
        assert found == tokens[-len(found) :]


def test_isolation_does_not_copy_again() -> None:
    """What a copy was made from may be overwritten by the time the step is computed again."""
    executor = MockExecutor(4)
    steps: list[Step] = []
    submit = executor.submit
    executor.submit = lambda step: (steps.append(step), submit(step))[1]  # type: ignore[method-assign]
    engine = build_engine(executor)
    engine.add(make_request("bad", [9, 9], 6))
    engine.add(make_request("good", [1, 2], 6, n=3))
    engine.step()
    executor.poisoned.add("bad")
    run(engine)
    ids = [step.id for step in steps]
    again = [step for i, step in enumerate(steps) if step.id in ids[:i]]
    first = [step for i, step in enumerate(steps) if step.id not in ids[:i]]
    assert again
    assert not any(step.copies for step in again)
    assert any(step.copies and step.id in {other.id for other in again} for step in first)


def test_a_sequence_alone_in_its_failed_step_is_not_run_again() -> None:
    executor = MockExecutor(4)
    executor.poisoned.add("r")
    engine = build_engine(executor)
    engine.add(make_request("r", [1, 2]))
    (delta,) = engine.step()
    assert delta.finish_reason is FinishReason.ERROR
    assert executor.submitted == 1


def test_with_steps_in_flight_a_failed_one_ends_all_it_holds() -> None:
    executor = MockExecutor(4, depth=2)
    executor.poisoned.add("bad")
    engine = build_engine(executor, budget=2)
    for name in ("bad", "same step", "other step"):
        engine.add(make_request(name, [ord(name[0])], 3))
    deltas = run(engine)
    ended = {d.request_id: d.finish_reason for d in deltas if d.finish_reason}
    assert ended == {
        "bad": FinishReason.ERROR,
        "same step": FinishReason.ERROR,
        "other step": FinishReason.LENGTH,
    }


def test_as_many_steps_as_the_executor_takes_are_in_flight() -> None:
    class Counting(MockExecutor):
        most = 0

        def submit(self, step: Step) -> None:
            super().submit(step)
            self.most = max(self.most, len(self._results))

    executor = Counting(4, depth=3)
    engine = build_engine(executor, budget=2)
    for i in range(8):
        engine.add(make_request(f"r{i}", [i], 4))
    run(engine)
    assert executor.most == 3

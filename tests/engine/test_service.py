"""EngineService: many callers, one engine thread, and everything that can go wrong between."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from headrace.engine.config import EngineConfig
from headrace.engine.service import EngineService
from headrace.nouns.delta import Delta
from headrace.nouns.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineStopped,
    InvalidRequest,
    QueueFull,
)
from headrace.nouns.event import Event, Kind
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason
from tests.engine.engines import END, Gate, Typist, asked, builder_of, serving, submit
from tests.scheduling.mock_executor import next_token


def expected(prompt: tuple[int, ...], count: int, index: int = 0) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        tokens.append(next_token(tokens, index))
    return tokens[len(prompt) :]


def test_answers_with_text_tokens_and_usage() -> None:
    executor = Typist()
    executor.texts["r"] = b"hello"
    with serving(executor) as service:
        listener = submit(service)
        (last,) = listener.wait()
        assert listener.text() == "hello"
        assert listener.tokens() == list(b"hello")
        assert last.finish_reason is FinishReason.STOP
        assert last.usage is not None
        assert last.usage.completion == 6
        assert service.status().steps >= 6


# Requests


def test_a_request_gets_its_open_ends() -> None:
    with serving(max_context=20) as service:
        request = service.request([1, 2], SamplingParams())
        other = service.request([1, 2], SamplingParams())
        assert request.max_tokens == 18
        assert request.eos_ids == {END}
        assert request.id != other.id
        assert request.seed != other.seed
        assert service.request([1], SamplingParams(ignore_eos=True)).eos_ids == frozenset()
        assert service.request([1], SamplingParams(seed=5)).seed == 5


@pytest.mark.parametrize(
    ("prompt", "params", "error", "message"),
    [
        ([], {}, InvalidRequest, "the prompt has no tokens"),
        ([1000], {}, InvalidRequest, "1000"),
        ([-1], {}, InvalidRequest, "-1"),
        ([1.5], {}, InvalidRequest, "token ids: 'float'"),
        (["1"], {}, InvalidRequest, "token ids: 'str'"),
        ([1] * 20, {}, ContextLengthExceeded, "20 tokens.*context length is 20"),
        ([1] * 10, {"max_tokens": 11}, ContextLengthExceeded, "11 more"),
    ],
)
def test_what_cannot_be_honoured_is_refused_at_once(
    prompt: list[Any], params: dict[str, Any], error: type[InvalidRequest], message: str
) -> None:
    with serving(max_context=20) as service:
        with pytest.raises(error, match=message) as caught:
            service.request(prompt, SamplingParams(**params))
        assert caught.value.param is not None
        assert submit(service).wait()


def test_the_cache_bounds_the_context_too() -> None:
    with serving(blocks=3, max_context=64) as service:  # 12 tokens and one without state
        assert service.request([1] * 5, SamplingParams()).max_tokens == 8
        with pytest.raises(ContextLengthExceeded, match="the cache holds 12 tokens"):
            service.request([1] * 5, SamplingParams(max_tokens=9))
        listener = submit(service, prompt=(1,) * 5, ignore_eos=True)
        listener.wait()
        assert listener.tokens() == expected((1,) * 5, 8)


def test_an_id_in_use_is_refused() -> None:
    executor = Typist()
    gate = Gate(executor)
    with serving(executor) as service:
        first = submit(service, "same")
        with pytest.raises(InvalidRequest, match="'same' is in use"):
            submit(service, "same")
        gate.open()
        first.wait()
        submit(service, "same").wait()


def test_a_full_queue_is_refused_with_the_time_to_come_back() -> None:
    executor = Typist()
    events: list[Event] = []
    with serving(executor, max_queue=3, max_sequences=1, sinks=[events.append]) as service:
        for i in range(4):
            submit(service, f"before {i}").wait()
        gate = Gate(executor)
        running = submit(service, "running")
        gate.entered.wait(30)
        queued = submit(service, "queued", n=3)
        with pytest.raises(QueueFull, match=r"3 sequences wait already.*holds 3") as caught:
            submit(service, "late")
        assert caught.value.retry_after >= 1.0
        assert service.status().waiting == 3
        gate.open()
        running.wait()
        queued.wait()
        assert [e.request_id for e in events if e.kind is Kind.REFUSED] == ["late"]
        submit(service, "late").wait()


def test_more_siblings_than_the_queue_ever_holds_are_no_matter_of_time() -> None:
    with serving(max_queue=3) as service:
        with pytest.raises(InvalidRequest, match=r"n is 4.*the queue holds 3"):
            submit(service, n=4)
        submit(service, n=3).wait()


# Aborts


def test_an_abort_ends_the_request_and_frees_its_memory() -> None:
    executor = Typist()
    gate = Gate(executor)
    with serving(executor) as service:
        running, other = submit(service, "r", n=2), submit(service, "other")
        gate.entered.wait(30)
        service.abort("r")
        service.abort("never seen")
        gate.open()
        finals = running.wait()
        assert {d.finish_reason for d in finals} == {FinishReason.ABORT}
        assert "went away" in str(finals[0].error)
        assert other.wait()[0].finish_reason is FinishReason.LENGTH
        assert service.drain(30)
        assert service.status().free_blocks == 64


def test_aborting_what_has_ended_or_waits_is_harmless() -> None:
    executor = Typist()
    gate = Gate(executor)
    with serving(executor, max_sequences=1) as service:
        first, second = submit(service, "first"), submit(service, "second")
        gate.entered.wait(30)
        service.abort("second")
        service.abort("second")
        gate.open()
        assert second.wait()[0].finish_reason is FinishReason.ABORT
        assert second.tokens() == []
        first.wait()
        service.abort("first")
        submit(service, "third").wait()


# The end


def test_draining_takes_no_new_work_and_waits_for_the_rest() -> None:
    executor = Typist()
    gate = Gate(executor)
    with serving(executor) as service:
        listener = submit(service)
        gate.entered.wait(30)
        drained: list[bool] = []
        thread = threading.Thread(target=lambda: drained.append(service.drain(60)))
        thread.start()
        while not service.status().draining:
            threading.Event().wait(0.001)
        assert not service.ready
        with pytest.raises(EngineStopped, match="shutting down"):
            submit(service, "late")
        gate.open()
        thread.join()
        assert drained == [True]
        assert listener.wait()[0].finish_reason is FinishReason.LENGTH


def test_what_is_left_after_the_deadline_is_aborted() -> None:
    executor = Typist()
    gate = Gate(executor)
    with serving(executor, max_sequences=1) as service:
        listeners = [submit(service, f"r{i}") for i in range(3)]
        gate.entered.wait(30)
        threading.Timer(0.05, gate.open).start()
        assert not service.drain(0.0)
        reasons = [listener.wait()[0].finish_reason for listener in listeners]
        assert reasons[1:] == [FinishReason.ABORT] * 2


def test_closing_aborts_and_may_be_repeated() -> None:
    executor = Typist()
    gate = Gate(executor, steps=2)
    with serving(executor, max_context=250) as service:
        listener = submit(service, max_tokens=240, ignore_eos=True)
        gate.entered.wait(30)
        threading.Timer(0.05, gate.open).start()
        service.close()
        assert listener.wait()[0].finish_reason is FinishReason.ABORT
        service.close()
        assert not service.ready
        with pytest.raises(EngineStopped):
            submit(service, "late")
        assert service.drain(1.0)


def test_a_closed_service_leaves_nothing_behind() -> None:
    """Without help from the collector of cycles: a model's memory is wanted back at once."""
    gc.collect()
    gc.disable()
    try:
        with serving() as service:
            submit(service).wait()
            engine = weakref.ref(service.built.engine)
        del service
        assert engine() is None
    finally:
        gc.enable()


def test_a_listener_may_close_the_service() -> None:
    executor = Typist()
    with serving(executor) as service:
        ended = threading.Event()

        def close(delta: Delta) -> None:
            service.close()
            if delta.finish_reason is not None:
                ended.set()

        service.submit(asked(service), close)
        assert ended.wait(30)
        service._thread.join(30)
        assert not service._thread.is_alive()


# Faults


def test_what_loading_raises_reaches_those_who_wait() -> None:
    def build(*_: object) -> Any:
        raise ConfigError("no such policy")

    service = EngineService(EngineConfig(), builder=build)
    service.start()
    with pytest.raises(ConfigError, match="no such policy"):
        service.wait_ready(30)
    status = service.status()
    assert (status.ready, status.failure) == (False, "no such policy")
    with pytest.raises(EngineStopped, match="no such policy"):
        service.request([1], SamplingParams())
    with pytest.raises(EngineStopped, match="no such policy"):
        service.model  # noqa: B018
    assert service.drain(1.0)
    assert service.explain("r") is None
    service.close()


def test_before_it_is_ready_it_says_so() -> None:
    go = threading.Event()

    def build(*arguments: Any) -> Any:
        go.wait(30)
        return builder_of(Typist())(*arguments)

    service = EngineService(EngineConfig(), (), lambda line: None, build)
    service.start()
    with pytest.raises(TimeoutError, match="not loaded within"):
        service.wait_ready(0.0)
    with pytest.raises(EngineStopped, match="not loaded yet"):
        service.request([1], SamplingParams())
    assert (service.status().ready, service.status().total_blocks) == (False, 0)
    go.set()
    service.wait_ready(30)
    assert service.ready
    service.close()


def test_when_the_engine_breaks_everybody_is_told_and_nothing_more_is_taken() -> None:
    class Breaking(Typist):
        def collect(self) -> Any:
            raise RuntimeError("out of electricity")

    executor = Breaking()
    gate = Gate(executor)
    with serving(executor, max_sequences=2) as service:
        shouting = threading.Event()

        def shout(delta: Delta) -> None:
            shouting.set()
            raise ValueError("a listener's own fault")

        service.submit(asked(service, "shouting"), shout)
        listeners = [submit(service, f"r{i}", n=2) for i in range(3)]
        gate.open()
        for listener in listeners:
            finals = listener.wait()
            assert {d.finish_reason for d in finals} == {FinishReason.ERROR}
            assert finals[0].error == "the engine failed: out of electricity"
        assert shouting.is_set()
        assert service.status().failure == "out of electricity"
        assert not service.ready
        with pytest.raises(EngineStopped, match="out of electricity"):
            submit(service, "late")
        with pytest.raises(RuntimeError, match="electricity"):
            service.wait_ready(1.0)
        assert service.drain(5.0)


def test_a_listener_that_raises_hurts_nobody_not_even_itself() -> None:
    with serving() as service:
        seen: list[Delta] = []
        ended = threading.Event()

        def raising(delta: Delta) -> None:
            seen.append(delta)
            if delta.finish_reason is not None:
                ended.set()
            raise ValueError("a listener's own fault")

        service.submit(asked(service, "raising", ignore_eos=True), raising)
        other = submit(service, "other", ignore_eos=True)
        other.wait()
        assert other.tokens() == expected((1, 2), 8)
        assert ended.wait(30)
        assert len(seen) == 8
        assert service.status().failure is None


def test_a_sink_that_raises_hurts_nobody() -> None:
    events: list[Event] = []

    def raising(event: Event) -> None:
        raise ValueError("a sink's own fault")

    with serving(sinks=[raising, events.append], max_queue=2) as service:
        service.add_sink(raising)
        listener = submit(service, ignore_eos=True)
        listener.wait()
        assert listener.tokens() == expected((1, 2), 8)
        assert service.status().failure is None
        submit(service, "again").wait()
    assert {Kind.ARRIVED, Kind.RAN, Kind.FINISHED} <= {event.kind for event in events}


def test_a_step_that_hangs_is_seen_by_the_watchdog() -> None:
    executor = Typist()
    gate = Gate(executor)
    with serving(executor, watchdog=0.01) as service:
        assert service.status().failure is None
        listener = submit(service)
        gate.entered.wait(30)
        threading.Event().wait(0.05)
        status = service.status()
        assert not status.ready
        assert status.failure is not None
        assert "the engine hangs" in status.failure
        gate.open()
        listener.wait()
        assert service.drain(30)
        assert service.status().failure is None


def test_explains_what_each_sequence_waits_for_and_what_happened() -> None:
    executor = Typist()
    gate = Gate(executor)
    with serving(executor, max_sequences=1) as service:
        first, second = submit(service, "first"), submit(service, "second")
        gate.entered.wait(30)
        while service.status().waiting != 1 or service.status().running != 1:
            threading.Event().wait(0.001)
        running: Any = service.explain("first")
        assert running["state"] == "active"
        assert running["sequences"][0]["waits_for"] is None
        assert [e["kind"] for e in running["events"]] == ["arrived", "admitted"]
        assert service.explain("never seen") is None
        gate.open()
        first.wait()
        second.wait()
        ended: Any = service.explain("second")
        assert (ended["state"], ended["sequences"]) == ("ended", [])
        kinds = [e["kind"] for e in ended["events"]]
        assert kinds == ["arrived", "admitted", "first_token", "finished"]
        assert ended["events"][-1]["wait_budget"] > 0


def test_explains_requests_of_many_siblings_to_their_tenant() -> None:
    """More events than are kept must not push out the one that says whose request it is."""
    with serving(max_sequences=4) as service:
        submit(service, "many", n=40).wait()
        ended: Any = service.explain("many")
        assert ended["tenant"] == "default"
        assert ended["events"][0]["kind"] == "arrived"
        assert ended["events"][-1]["kind"] == "finished"
        assert len(ended["events"]) == 64

"""Whatever many threads and clients do at once: each sequence gets exactly one last delta."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.service import EngineService
from headrace.nouns.errors import EngineStopped, HeadraceError, QueueFull
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason
from tests.engine.engines import Listener, Typist, serving
from tests.scheduling.mock_executor import MockExecutor, next_token


def check(listener: Listener, prompt: tuple[int, ...], most: int) -> None:
    """``wait`` and the listener itself have checked that each index ended exactly once."""
    for last in listener.wait():
        tokens = list(prompt)
        for token in listener.tokens(last.index):
            assert token == next_token(tokens, last.index)
            tokens.append(token)
        assert last.usage is not None
        assert len(tokens) - len(prompt) <= last.usage.completion <= most
        assert last.finish_reason in (FinishReason.LENGTH, FinishReason.ABORT)
        if last.finish_reason is FinishReason.LENGTH:
            assert len(tokens) - len(prompt) == most


@pytest.mark.parametrize("depth", [1, 2])
def test_many_threads_submit_abort_and_look_at_once(depth: int) -> None:
    with serving(
        MockExecutor(4, depth), blocks=24, max_queue=30, max_sequences=6, max_context=64
    ) as service:
        failures: list[BaseException] = []

        def client(seed: int) -> None:
            chance = random.Random(seed)
            mine: list[tuple[Listener, tuple[int, ...], int]] = []
            try:
                for i in range(20):
                    prompt = (*chance.choice([(1,) * 9, (2, 3)]), seed)
                    most, n = chance.randint(1, 12), chance.randint(1, 3)
                    params = SamplingParams(max_tokens=most, ignore_eos=True)
                    request = service.request(prompt, params, n=n, id=f"{seed}-{i}")
                    listener = Listener(n)
                    try:
                        service.submit(request, listener)
                    except QueueFull:
                        threading.Event().wait(0.002)
                        continue
                    mine.append((listener, prompt, most))
                    if chance.random() < 0.3:
                        service.abort(request.id)
                    service.explain(request.id)
                    assert service.status().failure is None
                for listener, prompt, most in mine:
                    check(listener, prompt, most)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert service.status().failure is None


@settings(max_examples=25, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 20), st.sampled_from(["", "abort", "poison"])),
        min_size=1,
        max_size=10,
    ),
    depth=st.integers(1, 3),
    end=st.sampled_from(["drain", "drain now", "close"]),
)
def test_every_sequence_has_one_last_delta_however_the_service_ends(
    jobs: list[tuple[int, int, str]], depth: int, end: str
) -> None:
    executor = MockExecutor(4, depth)
    executor.poisoned.update(str(i) for i, (_, _, fate) in enumerate(jobs) if fate == "poison")
    listeners: list[Listener] = []
    with serving(executor, blocks=20, max_context=40) as service:
        for i, (n, most, fate) in enumerate(jobs):
            params = SamplingParams(max_tokens=most, ignore_eos=True)
            listener = Listener(n)
            service.submit(service.request((1, 2, 3), params, n=n, id=str(i)), listener)
            if fate == "abort":
                service.abort(str(i))
            listeners.append(listener)
        if end != "close":
            service.drain(60 if end == "drain" else 0.0)
            with pytest.raises(EngineStopped):
                service.submit(service.request((1,), SamplingParams()), Listener())
    for listener in listeners:
        listener.wait()
    assert service.status().failure is None


def test_submitting_while_the_service_closes_ends_or_is_refused() -> None:
    for _ in range(5):
        listeners: deque[Listener] = deque()
        with serving(Typist()) as service:

            def flood(service: EngineService = service, into: deque[Listener] = listeners) -> None:
                while True:
                    listener = Listener()
                    request = service.request((1, 2), SamplingParams(max_tokens=3))
                    try:
                        service.submit(request, listener)
                    except QueueFull:
                        continue
                    except HeadraceError:
                        return
                    into.append(listener)

            threads = [threading.Thread(target=flood) for _ in range(3)]
            for thread in threads:
                thread.start()
            while not listeners:
                threading.Event().wait(0.001)
            service.close()
            for thread in threads:
                thread.join()
        for listener in listeners:
            listener.wait()


async def test_many_streams_of_one_loop_come_whole_or_are_cancelled() -> None:
    with serving(MockExecutor(4), blocks=32, max_context=100) as service:

        async def read(i: int) -> list[int]:
            params = SamplingParams(max_tokens=30, ignore_eos=True)
            tokens: list[int] = []
            async for delta in service.stream(service.request((1, i), params, id=str(i))):
                tokens += delta.tokens
            return tokens

        tasks = [asyncio.create_task(read(i)) for i in range(40)]
        await asyncio.sleep(0.005)
        for task in tasks[::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, result in enumerate(results):
            if isinstance(result, asyncio.CancelledError):
                assert i % 3 == 0
                continue
            assert isinstance(result, list)
            tokens = [1, i]
            for token in result:
                assert token == next_token(tokens)
                tokens.append(token)
            assert len(result) == 30
        assert await asyncio.to_thread(service.drain, 30)
        assert service.status().free_blocks == 32

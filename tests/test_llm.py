"""The library: generate, stream and chat, sync and async, on the toy model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace
from headrace.completion import Completion, CompletionBuilder
from headrace.engine import service as service_module
from headrace.engine.service import EngineService
from headrace.llm import LLM, Prompt, as_prompts
from headrace.nouns.delta import Delta, Usage
from headrace.nouns.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineStopped,
    HeadraceError,
    InvalidRequest,
    ModelError,
    TemplateError,
)
from headrace.nouns.request import Targets
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason
from headrace.scheduling.linear_cost import LinearCost
from tests.api.toy_engine import ToyTemplate, toy_builder, toy_service

GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture
def service() -> Iterator[EngineService]:
    running = toy_service()
    running.start()
    yield running
    running.close()


@pytest.fixture
def llm(service: EngineService) -> LLM:
    return LLM.over(service)


def idle(service: EngineService) -> bool:
    status = service.status()
    return status.running == status.waiting == 0 and status.free_blocks == status.total_blocks


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def test_one_prompt(llm: LLM) -> None:
    [done] = llm.generate("abc", GREEDY)
    assert done.text == "abc"
    assert done.prompt == tuple(llm.encode("abc"))
    assert done.outputs[0].finish_reason is FinishReason.STOP
    assert done.outputs[0].usage == Usage(prompt=4, completion=4, cached=0)
    assert done.raise_for_error() is done


def test_many_prompts_come_back_in_order(llm: LLM) -> None:
    texts = [f"prompt {i}" * (i % 5 + 1) for i in range(600)]
    assert [c.text for c in llm.generate(texts, GREEDY)] == texts
    assert llm.generate([]) == []


def test_prompts_as_token_ids(llm: LLM) -> None:
    ids = llm.encode("abc")
    assert [c.text for c in llm.generate(ids)] == ["abc"]
    mixed: list[Prompt] = [ids, "de", tuple(ids)]
    assert [c.text for c in llm.generate(mixed)] == ["abc", "de", "abc"]
    assert llm.decode(ids) == "abc"


def test_params_for_each_prompt_and_several_outputs(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2, logprobs=1)]
    first, second = llm.generate(["abc", "def"], params, n=3)
    assert [o.text for o in first.outputs] == ["a"] * 3
    assert [o.index for o in first.outputs] == [0, 1, 2]
    assert [o.finish_reason for o in second.outputs] == [FinishReason.LENGTH] * 3
    assert second.tokens == tuple(b"de")
    assert [entry.token for entry in second.outputs[2].logprobs] == [100, 101]


def test_chat_and_render(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert llm.chat(messages).text == "hello"
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert llm.decode(llm.render(messages, tools)) == "[add]hello"
    assert llm.chat(messages, GREEDY, tools=tools).text == "[add]hello"


def test_a_model_without_a_chat_template() -> None:
    service = toy_service(template=None)
    service.start()
    with pytest.raises(TemplateError, match="no chat template"):
        LLM.over(service).chat([{"role": "user", "content": "hello"}])
    service.close()


def test_names_and_limits(llm: LLM) -> None:
    assert (llm.model_name, llm.max_context) == ("toy", 512)


def test_stream_gives_the_same_text(llm: LLM) -> None:
    deltas = list(llm.stream("hello", GREEDY))
    assert "".join(d.text for d in deltas) == "hello"
    assert len(deltas) > 2
    assert deltas[-1].finish_reason is FinishReason.STOP


def test_a_stream_that_is_left_frees_its_memory(service: EngineService, llm: LLM) -> None:
    stream = llm.stream("<slow>" + "a" * 200)
    assert next(stream).tokens
    stream.close()  # type: ignore[attr-defined]
    until(lambda: idle(service))


def test_one_bad_prompt_stops_all_before_any_runs(service: EngineService, llm: LLM) -> None:
    with pytest.raises(ContextLengthExceeded, match="prompt 1 of 2: the prompt has"):
        llm.generate(["abc", "x" * 600])
    with pytest.raises(InvalidRequest, match="9999"):
        llm.generate([9999])
    with pytest.raises(InvalidRequest, match="2 prompts and 1 params"):
        llm.generate(["a", "b"], [GREEDY])
    with pytest.raises(InvalidRequest, match="the prompt has no tokens"):
        llm.generate([[]])
    assert service.status().steps == 0


@pytest.mark.parametrize("prompts", [[1.5], [None], [["a"]], ["a", 1], [[1], [1.0]]])
def test_what_is_no_prompt(prompts: Any) -> None:
    with pytest.raises(InvalidRequest, match="neither text nor a list of token ids"):
        as_prompts(prompts)


def test_a_failing_request_fails_alone(llm: LLM) -> None:
    good, bad = llm.generate(["abc", "<fault>"])
    assert good.text == "abc"
    assert bad.outputs[0].finish_reason is FinishReason.ERROR
    assert bad.outputs[0].error == "the logits are not finite"
    with pytest.raises(HeadraceError, match="the logits are not finite"):
        bad.raise_for_error()


def test_a_full_queue_is_waited_for() -> None:
    service = toy_service(max_queue=2, max_sequences=1)
    service.start()
    llm = LLM.over(service)
    texts = [f"text {i}" for i in range(20)]
    assert [c.text for c in llm.generate(texts)] == texts

    async def gathered() -> list[Completion]:
        return await asyncio.gather(*(llm.agenerate(t, GREEDY) for t in texts[:5]))

    assert [c.text for c in asyncio.run(gathered())] == texts[:5]
    service.close()


def test_targets_that_are_out_of_reach_now_are_waited_for() -> None:
    """A batch that asks for quick first tokens is handed over as fast as they can be had."""
    service = toy_service(max_sequences=1, step_seconds=0.002, cost=LinearCost({"step": 0.002}))
    service.start()
    llm = LLM.over(service)
    texts = [f"text {i}" for i in range(12)]
    assert [c.text for c in llm.generate(texts, targets=Targets(ttft=0.02))] == texts
    with pytest.raises(InvalidRequest, match="raise the target"):
        llm.generate(texts, targets=Targets(ttft=0.0001))
    service.close()


async def test_async_in_a_batch(llm: LLM) -> None:
    texts = [f"prompt {i}" for i in range(50)]
    found = await asyncio.gather(*(llm.agenerate(t, GREEDY, n=2) for t in texts))
    assert [[o.text for o in c.outputs] for c in found] == [[t, t] for t in texts]


async def test_async_stream(llm: LLM) -> None:
    texts = [delta.text async for delta in llm.astream("hello", GREEDY)]
    assert "".join(texts) == "hello"


async def test_a_cancelled_request_frees_its_memory(service: EngineService, llm: LLM) -> None:
    task = asyncio.create_task(llm.agenerate("<slow>" + "a" * 200))
    await asyncio.to_thread(until, lambda: service.status().running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: idle(service))


async def test_an_async_stream_that_is_left_frees_its_memory(
    service: EngineService, llm: LLM
) -> None:
    stream = llm.astream("<slow>" + "a" * 200)
    assert (await anext(stream)).tokens
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(until, lambda: idle(service))


def test_threads_may_share_it(llm: LLM) -> None:
    found: dict[int, str] = {}

    def work(number: int) -> None:
        found[number] = llm.generate(f"thread {number}")[0].text

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: f"thread {i}" for i in range(8)}


def test_a_broken_engine_is_an_error_not_a_hang(service: EngineService, llm: LLM) -> None:
    def broken() -> None:
        raise RuntimeError("out of order")

    stream = llm.stream("<slow>" + "a" * 200)
    next(stream)
    service.built.engine.step = broken  # type: ignore[assignment, method-assign]
    last = list(stream)[-1]
    assert last.finish_reason is FinishReason.ERROR
    assert "out of order" in str(last.error)
    with pytest.raises(EngineStopped, match="out of order"):
        llm.generate("abc")


def test_a_silent_engine_that_failed_is_noticed(
    service: EngineService, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "submit", lambda request, on_delta: None)
    monkeypatch.setattr(service, "_failure", RuntimeError("gone"))
    with pytest.raises(EngineStopped, match="gone"):
        llm.generate("abc")


@pytest.fixture
def toy_models(monkeypatch: pytest.MonkeyPatch) -> list[EngineService]:
    """LLM builds toy models; the services that it made."""
    made: list[EngineService] = []

    class ToyService(EngineService):
        def __init__(self, config: Any) -> None:
            error = ModelError("there is no model 'x'") if config.model == "x" else None
            template = ToyTemplate()
            super().__init__(config, builder=toy_builder(template=template, load_error=error))
            made.append(self)

    monkeypatch.setattr(service_module, "EngineService", ToyService)
    return made


def test_its_own_engine_is_closed_with_it(toy_models: list[EngineService]) -> None:
    with LLM("toy", max_sequences=2) as llm:
        assert llm.generate("abc")[0].text == "abc"
    [service] = toy_models
    assert service.config.max_sequences == 2
    with pytest.raises(EngineStopped):
        llm.generate("abc")
    llm.close()


def test_a_view_leaves_the_engine_running(service: EngineService) -> None:
    with LLM.over(service) as llm:
        llm.generate("abc")
    assert service.ready


def test_a_model_that_cannot_be_loaded(toy_models: list[EngineService]) -> None:
    with pytest.raises(ModelError, match="no model 'x'"):
        LLM("x")
    with pytest.raises(ConfigError, match=r"no option 'temperature'; the options are .*block_size"):
        LLM("toy", temperature=0)
    with pytest.raises(ConfigError, match="max_sequences is 0"):
        LLM("toy", max_sequences=0)


def test_a_cut_short_request_counts_as_aborted() -> None:
    builder = CompletionBuilder("r", (1,), 2)
    builder.add(Delta("r", 0, (5,), "a", finish_reason=FinishReason.LENGTH, usage=Usage(1, 1, 0)))
    builder.add(Delta("r", 1, (6,), "b"))
    assert not builder.done
    first, second = builder.build().outputs
    assert (first.finish_reason, second.finish_reason) == (FinishReason.LENGTH, FinishReason.ABORT)
    assert second.usage == Usage(0, 1, 0)


def test_the_package_exports_the_library() -> None:
    assert headrace.LLM is LLM
    assert headrace.SamplingParams is SamplingParams
    assert set(headrace.__all__) <= set(dir(headrace))
    assert all(getattr(headrace, name) for name in headrace.__all__)
    assert headrace.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        headrace.nothing  # noqa: B018


def test_the_library_itself_loads_no_torch() -> None:
    code = (
        "import sys, headrace; headrace.LLM; headrace.SamplingParams()\n"
        "print([m for m in ('torch', 'numpy', 'fastapi', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

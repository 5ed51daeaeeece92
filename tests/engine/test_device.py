"""The whole engine on a device's operators: on the CPU always, on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.completion import Completion
from headrace.execution import build, device_build
from headrace.execution.memory_plan import weight_bytes
from headrace.llm import LLM
from headrace.models.device_transformer import DeviceTransformer
from headrace.models.loader import open_model
from headrace.models.source import resolve
from headrace.nouns.errors import ConfigError
from headrace.nouns.sampling_params import SamplingParams
from tests.models.test_parity import CASES, VOCAB, save
from tests.support.devices import on_devices

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, logprobs=2)
DRAWN = SamplingParams(
    temperature=0.8, top_p=0.9, min_p=0.01, max_tokens=12, logprobs=2, presence_penalty=0.3, seed=5
)
# The last two share a beginning, which the prefix cache finds.
PROMPTS = [[(5 * i * n + 3) % VOCAB for i in range(n)] for n in (1, 9, 40)]
PROMPTS += [[*range(3, 83), 7], [*range(3, 83), 9, 11]]


@pytest.fixture(params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    save(tmp_path, *CASES[request.param])
    return str(tmp_path)


@pytest.fixture(autouse=True)
def _same_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def on_device(monkeypatch: pytest.MonkeyPatch, device: str) -> str:
    """Have engines compute with device operators; returns what to give as ``device``."""
    if device == "cuda":
        return device

    def plan(files: Any, chosen: Any, block_size: int, cache_format: str) -> Any:
        where = torch.device("cpu")
        _, *rest = build._plan_on_device(files, where, chosen.name, cache_format, block_size, 512)
        return tuple(rest)

    monkeypatch.setattr(build, "_plan_model", plan)
    return "cpu"


def engine(model: str, device: str, weights: str = "float32", **options: Any) -> LLM:
    sizes = {"cache_bytes": 4 << 20, "max_context": 256, "max_sequences": 4, "token_budget": 48}
    return LLM(model, device=device, weights=weights, threads=1, **(sizes | options))


def answers(llm: LLM, params: SamplingParams) -> list[Completion]:
    return list(llm.generate(PROMPTS, params))


def model_of(llm: LLM) -> object:
    return llm._service.built.engine.executor.transformer  # type: ignore[attr-defined]


@on_devices
def test_answers_are_those_of_the_reference(
    device: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(model, "cpu") as llm:
        assert not isinstance(model_of(llm), DeviceTransformer)
        expected = answers(llm, GREEDY)
    where = on_device(monkeypatch, device)
    with engine(model, where) as llm:
        assert isinstance(model_of(llm), DeviceTransformer)
        found = answers(llm, GREEDY)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours.outputs, theirs.outputs, strict=True):
            assert a.error is b.error is None
            assert a.tokens == b.tokens
            close(a, b)


def close(a: Any, b: Any) -> None:
    for x, y in zip(a.logprobs, b.logprobs, strict=True):
        assert abs(x.logprob - y.logprob) < 1e-3


@on_devices
@pytest.mark.parametrize("weights", ["float32", "bf16"])
@pytest.mark.parametrize("params", [GREEDY, DRAWN])
def test_answers_do_not_depend_on_the_company(
    device: str, weights: str, params: SamplingParams, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Alone in large steps, and together in small ones with shared prefixes: the same bits."""
    save(tmp_path, *CASES["llama"])
    where = on_device(monkeypatch, device)
    with engine(str(tmp_path), where, weights, token_budget=300, prefix_cache=False) as llm:
        alone = [llm.generate([prompt], params)[0] for prompt in PROMPTS]
    with engine(str(tmp_path), where, weights, token_budget=20, block_size=16) as llm:
        for _ in range(2):  # the second time prefixes are found
            together = answers(llm, params)
            assert outcome(together) == outcome(alone)


def outcome(completions: list[Completion]) -> list[Any]:
    return [(o.tokens, o.logprobs) for c in completions for o in c.outputs]


def test_formats_of_the_cpu_are_refused_on_a_device(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(build, "choose_device", lambda *_: (cuda, "for the test"))
    monkeypatch.setattr(build, "describe_device", lambda *_: "device: cuda")
    with pytest.raises(ConfigError, match="weights is 'native', which only the CPU computes; on"):
        engine(model, "cuda", "native")


def test_a_cache_has_the_format_of_the_weights(tmp_path: Path) -> None:
    save(tmp_path, *CASES["llama"])
    files = open_model(resolve(str(tmp_path)))
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="cache_format is 'int8'; with weights bf16 on cpu the"):
        device_build.plan_on_device(files, cpu, "bf16", "int8", 16, 256)
    planned = device_build.plan_on_device(files, cpu, "bf16", "auto", 16, 256)
    made = planned.make(256)
    config = files.config
    assert planned.block_bytes == config.cache_values_per_token() * 2 * 16
    counted = weight_bytes(config, planned.sizes, 256).bytes
    assert abs(made.nbytes - counted) < 0.01 * counted

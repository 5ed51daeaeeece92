"""The transformer on a device's operators: right, captured once per shape, nothing on the host."""

from __future__ import annotations

import logging
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headrace.execution.local import LocalExecutor
from headrace.execution.profile import Profile
from headrace.execution.profiled_operators import ProfiledOperators
from headrace.kernels.device.attention import FusedAttention
from headrace.kernels.device.graphs import Run
from headrace.kernels.device.linear import ROWS, Ladders
from headrace.kernels.device.operators import DeviceOperators
from headrace.kernels.device.step import Uploader
from headrace.kernels.layout import lay_out
from headrace.kernels.operators import LayerCache
from headrace.kernels.self_check import Cache
from headrace.models.device_transformer import DeviceTransformer
from headrace.models.model import Model
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Slice
from tests.execution.tiny import (
    RandomWeights,
    device_transformer,
    executor,
    logits_of,
    run,
    sequence,
    tiny_config,
    tiny_transformer,
)
from tests.support.dataless import no_data
from tests.support.devices import needs_cuda, on_devices

PROMPTS = tuple([7 * i * n % 160 for i in range(n)] for n in (3, 40, 290))


def logits(model: Model) -> torch.Tensor:
    """Logits after prompts in one step and in chunks, and of three decode steps in a batch."""
    local = executor(model)
    seqs = [sequence(tokens, range(i * 20, i * 20 + 20)) for i, tokens in enumerate(PROMPTS)]
    found = []
    for step in range(5):
        slices = [
            Slice(seq, seq.computed, n := min(len(seq.tokens) - seq.computed, 150),
                  seq.computed + n == len(seq.tokens))
            for seq in seqs
        ]  # fmt: skip
        run(local, *slices)
        rows = iter(logits_of(local).cpu())
        for piece in slices:
            if piece.samples:
                found.append(next(rows))
                piece.sequence.tokens.append(11 * step + 5)  # the same whatever rounding does
    return torch.stack(found)


@cache
def reference(dtype: str, architecture: str) -> torch.Tensor:
    return logits(tiny_transformer(dtype, architecture))


@on_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_logits_agree_with_the_reference(
    device: str, dtype: torch.dtype, architecture: str
) -> None:
    name = str(dtype).removeprefix("torch.")
    expected = reference(name, architecture)
    config = tiny_transformer(name, architecture).config
    found = logits(device_transformer(config, device, dtype))
    assert found.shape == expected.shape
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def decoding(local: LocalExecutor, lengths: list[int]) -> list[Sequence]:
    """Sequences whose prompts are computed."""
    seqs = [
        sequence((t % 160 for t in range(n)), range(i * 40, i * 40 + 40))
        for i, n in enumerate(lengths)
    ]
    run(local, *(Slice(seq, 0, len(seq.tokens), True) for seq in seqs))
    return seqs


def decode(local: LocalExecutor, seqs: list[Sequence], samples: bool = True) -> torch.Tensor:
    for seq in seqs:
        seq.tokens.append(9)
    run(local, *(Slice(seq, seq.computed, 1, samples) for seq in seqs))
    return logits_of(local)


class Counting:
    """A capture that counts; what it returns runs the step again."""

    def __init__(self) -> None:
        self.captured = 0
        self.replayed = 0

    def __call__(self, step: Run) -> Run:
        self.captured += 1

        def replay() -> torch.Tensor:
            self.replayed += 1
            return step()

        return replay


def counted() -> tuple[LocalExecutor, Counting, DeviceTransformer]:
    model = device_transformer(tiny_config(), "cpu", torch.float32)
    model._capture = count = Counting()
    return executor(model), count, model


def test_a_shape_is_captured_once_and_replayed() -> None:
    local, count, model = counted()
    seqs = decoding(local, [250, 30, 7])
    assert count.captured == 0
    for _ in range(5):  # contexts of 251 to 255 keys: one width
        decode(local, seqs)
    assert (count.captured, count.replayed) == (1, 5)
    for _ in range(4):  # 256, then 257 and more
        decode(local, seqs)
    assert (count.captured, count.replayed) == (2, 9)
    fewer = model.padded_rows(1)
    decode(local, seqs[2:])
    assert count.captured == 2 + (fewer != model.padded_rows(3))
    run(local, Slice(seqs[0], 0, 20, False), Slice(seqs[1], seqs[1].computed - 1, 1, True))
    assert count.replayed == 10, "a step with a longer slice has no graph"


def test_graphs_belong_to_a_cache() -> None:
    local, count, model = counted()
    decode(local, decoding(local, [5]))
    assert (count.captured, len(model._graphs)) == (1, 1)
    other = executor(model)
    first = decode(other, decoding(other, [5]))
    assert (count.captured, len(model._graphs)) == (2, 1)
    model._capture = None
    fresh = executor(model)
    assert torch.equal(decode(fresh, decoding(fresh, [5])), first)


def test_measured_steps_and_steps_without_samples_run_operator_by_operator() -> None:
    local, count, _ = counted()
    seqs = decoding(local, [5, 9])
    with local.profile() as profile:
        decode(local, seqs)
    assert count.replayed == 0
    assert any("attention" in row[0] for row in profile.table())
    decode(local, seqs, samples=False)
    assert count.replayed == 0
    decode(local, seqs)
    assert count.replayed == 1


def test_operators_of_a_queue_are_timed_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for device, expected in ((torch.device("cuda", 0), 1), (torch.device("cpu"), 0)):
        waited.clear()
        inner = SimpleNamespace(
            name="", device=device, weight_dtype=None, cache_dtype=None, norm=lambda *_: 7
        )
        profile = Profile()
        assert ProfiledOperators(inner, profile, 1).norm(torch.ones(1), torch.ones(1), 0.0) == 7  # type: ignore[arg-type]
        assert waited == [device] * expected


def test_a_capture_that_fails_costs_the_graphs_only(caplog: pytest.LogCaptureFixture) -> None:
    model = device_transformer(tiny_config(), "cpu", torch.float32)
    local = executor(model)
    seqs = decoding(local, [5, 30])
    tried = []

    def failing(step: Run) -> Run:
        step()  # as warming up does
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    model._capture = failing
    with caplog.at_level(logging.WARNING):
        found = decode(local, seqs)
    assert "run without graphs: operation not permitted when stream is capturing" in caplog.text
    whole = executor(model)
    expected = decode(whole, decoding(whole, [5, 30]))
    assert torch.equal(found, expected)
    assert tried == [1]


def test_a_tied_output_matrix_is_counted_once() -> None:
    untied, tied = (
        device_transformer(tiny_config(tied_embeddings=tied), "cpu", torch.float32)
        for tied in (False, True)
    )
    assert untied.nbytes - tied.nbytes == untied._head.nbytes


class Layers:
    """A cache without data."""

    def __init__(self, state: torch.Tensor) -> None:
        self.layers: list[LayerCache] = [Cache(layer[0], layer[1]) for layer in state]
        self.array: Any = None


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_no_tensor_of_the_model_stays_on_the_host(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ladders, "rungs", lambda self, like: ROWS)
    monkeypatch.setattr(Ladders, "head_rungs", lambda self, like: ROWS)
    monkeypatch.setattr(Uploader, "send", lambda self, layout, shape, into: None)
    config = tiny_config(architecture=architecture, qk_norm=architecture == "qwen3")
    cuda, count = torch.device("cuda", 0), Counting()
    with no_data():
        operators = DeviceOperators(cuda, torch.bfloat16, FusedAttention())
        weights = RandomWeights(config)
        model = DeviceTransformer(config, weights, operators, config.max_context, count)
        width = model.cache_width(16)
        state = torch.empty(2, 2, 9 * 2, width, dtype=torch.bfloat16, device=cuda)
        cache_ = Layers(state)
        for lengths in ([1, 1], [1, 20]):
            layout = lay_out(
                [0] * sum(lengths), [4, 0], lengths, [0, *range(1, 1 + -(-lengths[1] // 16))],
                [0, sum(lengths) - 1], block_size=16, null_block=8,
                padded=model.padded_rows(sum(lengths)), device=cuda,
            )  # fmt: skip
            found = model.forward(layout, cache_)
            assert (found.device, found.shape) == (cuda, (2, config.vocab_size))
    assert count.captured == count.replayed == 1


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_give_the_same_bits_as_operators_one_by_one(dtype: torch.dtype) -> None:
    model = device_transformer(tiny_config(), "cuda", dtype)
    local, plain = executor(model), executor(model)
    seqs, others = decoding(local, [250, 30, 7]), decoding(plain, [250, 30, 7])
    capture = model._capture
    for _ in range(12):
        model._capture = capture
        found = decode(local, seqs)
        model._capture = None
        assert torch.equal(found, decode(plain, others))
    assert len(model._graphs) == 2, "graphs were captured, and kept"

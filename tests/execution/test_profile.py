"""Profiles of the torch operators: spans, their layers, and what is kept of long runs."""

from __future__ import annotations

import pytest

from headrace.execution import profile as profiles
from headrace.execution.peaks import Peaks
from headrace.execution.profile import NO_LAYER, Profile, Span
from headrace.execution.roofline import Roofline
from headrace.kernels.extension import load_extension
from headrace.nouns.step import Slice, Work
from tests.execution.test_roofline import FLOAT
from tests.execution.tiny import executor, run, sequence, tiny_config, tiny_transformer, whole

PEAKS = Peaks(bandwidth=1e9, float32=1e11)


def span(name: str, start: int, end: int, layer: int = NO_LAYER) -> Span:
    return (name, layer, start, end)


def test_sums_by_hand() -> None:
    profile = Profile()
    profile.book("a", 1_000_000, 3_000_000, 0)
    profile.book_spans([span("a", 3_000_000, 4_000_000, 1), span("b", 4_000_000, 8_000_000)])
    profile.end_step(
        5, 10, 2, 1_000_000, 9_000_000, span("layout", 0, 1_000_000), Work(1, 2, 0.003)
    )
    profile.book("a", 10_000_000, 11_000_000)
    profile.end_step(6, 1, 1, 10_000_000, 11_000_000, span("layout", 9_500_000, 9_500_000), None)
    assert (profile.steps, profile.rows) == (2, 11)
    assert profile.elapsed == pytest.approx(0.010)
    assert profile.limit == 0.003
    table = {name: figures for name, *figures in profile.table()}
    assert table["a"] == pytest.approx([2.0, 0.4, 2])  # 3 calls in 2 steps
    assert table["b"] == pytest.approx([2.0, 0.4, 0])
    assert table["layout"] == pytest.approx([0.5, 0.1, 1])
    assert table["other"] == pytest.approx([0.5, 0.1, 0])
    assert len(table) == 4
    assert [step.id for step in profile.traced] == [5, 6]
    assert profile.traced[0].spans[1] == ("a", 1, 3_000_000, 4_000_000)


def test_long_runs_are_traced_from_their_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "SPANS_KEPT", 5)
    profile = Profile()
    for i in range(4):
        profile.book_spans([span("a", i, i + 1), span("b", i, i + 1)])
        profile.end_step(i, 1, 1, i, i + 1, span("layout", i, i), None)
    assert [step.id for step in profile.traced] == [0, 1]
    assert profile.calls == {"layout": 4, "a": 4, "b": 4}


def test_spans_know_their_layer_and_do_not_overlap() -> None:
    local = executor(tiny_transformer("float32"))
    with local.profile() as profile:
        whole(local, sequence(range(30), range(2)))
    (step,) = profile.traced
    layers = local.transformer.config.num_layers
    by_layer: dict[int, list[str]] = {}
    for name, layer, _, _ in step.spans:
        by_layer.setdefault(layer, []).append(name)
    assert by_layer.pop(NO_LAYER) == [
        "clear blocks", "prepare", "embed", "norm", "head", "sampling",
    ]  # fmt: skip
    assert list(by_layer) == list(range(layers))
    for names in by_layer.values():
        assert names == [
            "norm", "linear qkv", "rotate, store", "attention", "linear out", "norm",
            "linear gate, up", "linear down",
        ]  # fmt: skip
    times = [time for _, _, start, end in step.spans for time in (start, end)]
    assert times == sorted(times)
    assert step.layout[3] <= step.start <= times[0]
    assert times[-1] <= step.end
    assert (step.rows, step.slices, step.work) == (30, 1, None)


@pytest.mark.skipif(not load_extension().available, reason="needs the C++ extension")
def test_spans_of_the_decoder_have_the_same_form() -> None:
    local = executor(tiny_transformer("int8"))
    seq = sequence(range(30), range(2))
    with local.profile() as profile:
        whole(local, seq)
    (step,) = profile.traced
    layers = {layer for _, layer, _, _ in step.spans}
    assert layers == {NO_LAYER, *range(local.transformer.config.num_layers)}
    assert {"attention", "head", "sampling"} <= {name for name, *_ in step.spans}
    times = [time for _, _, start, end in step.spans for time in (start, end)]
    assert times == sorted(times)
    assert step.start <= times[0]
    assert times[-1] <= step.end
    seq.tokens.append(5)
    whole(local, seq)  # and nobody listens any more
    assert profile.steps == 1


def test_an_executor_with_a_roofline_says_what_its_steps_had_to_do() -> None:
    local = executor(tiny_transformer("float32"))
    roofline = local.roofline = Roofline(tiny_config(), FLOAT, PEAKS)
    first, second = sequence(range(30), range(2)), sequence(range(7), [2])
    slices = Slice(first, 0, 30, True), Slice(second, 0, 5, False)
    with local.profile() as profile:
        result = run(local, *slices)
    pairs = 30 * 31 // 2 + 5 * 6 // 2
    last = (30 + 5) / 2
    assert result.work == roofline.bound(rows=35, samples=1, pairs=pairs, last=last, read=0)
    assert profile.traced[0].work == result.work
    assert profile.limit == result.work.seconds
